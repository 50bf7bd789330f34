// The instructions.

function drawListing(body) {
  body.replaceChildren();
  if (!list.data.listing) {
    body.append(el("p", {}, "This page has no listing."));
    return;
  }
  const title = (start, end) => `instructions ${number(start)} to ${number(end - 1)}${rulesBetween(start, end)}`;
  body.append(...folded(list.text.length, 250, title, drawInstruction, { class: "code" }));
}

function rulesBetween(start, end) {
  const runs = list.data.listing.rules;
  let [first, last] = [Infinity, -Infinity];
  for (let at = firstThat(runs.length, (index) => runs[index][0] >= start); at < runs.length && runs[at][0] < end; at++) {
    const rule = runs[at][1];
    if (rule === null) continue;
    first = Math.min(first, rule);
    last = Math.max(last, rule);
  }
  if (last < 0) return "";
  return first === last ? `: rule ${first}` : `: rules ${number(first)} to ${number(last)}`;
}

function drawInstruction(slot) {
  const rule = runAt(list.data.listing.rules, slot);
  const label = list.labels.get(slot);
  const button = el(
    "button",
    { class: "insn item", id: `insn-${slot}`, type: "button", tabindex: -1, "data-slot": slot, "data-origin": rule },
    el("span", { class: "no" }, String(slot)),
    el("span", { class: "op" }, list.text[slot] || "…"),
    el("span", { class: "note" }, list.notes[slot]),
  );
  return el("li", {}, label ? el("span", { class: "jump" }, `${label}:`) : null, button);
}

/** What instructions touch, each once. */
function touchesOf(spans) {
  const { touch, touches } = list.data.listing;
  const found = new Set();
  for (const [start, end] of spans) {
    for (let slot = start; slot < end; slot++) if (touch[slot] >= 0) found.add(touch[slot]);
  }
  return [...found].map((at) => touches[at]);
}
