// Pointing: what belongs together lights up, for as long as one points at it or keeps it.

/** What is kept, and what is lit. */
let kept = null;
let lit = null;

/** What an element stands for. */
function whatIs(element) {
  const at = element.closest?.("[data-rule], [data-slot], [data-shape], [data-node], [data-remark], [data-packet]");
  if (!at) return null;
  const { rule, slot, shape, node, remark, packet, list: of } = at.dataset;
  if (rule !== undefined) return { kind: "rule", id: Number(rule), of: Number(of) };
  if (slot !== undefined) return { kind: "insn", id: Number(slot) };
  if (shape !== undefined) return { kind: "nodes", id: Number(shape), nodes: [...list.shapes[Number(shape)].nodes] };
  if (node !== undefined) return { kind: "nodes", id: Number(node), nodes: [Number(node)] };
  if (packet !== undefined) return { kind: "packet", id: Number(packet) };
  return { kind: "remark", id: Number(remark) };
}

/** All that belongs to it. */
function belongs(what) {
  const found = { rules: new Set(), nodes: new Set(), ends: new Set(), strong: [], weak: [], slot: null, touches: [], said: "" };
  const listing = list.data.listing;
  const spans = (of, keys) => (listing ? [...keys].flatMap((key) => of.get(key) ?? []) : []);
  const ofRule = (rule) => {
    found.rules.add(rule);
    found.ends = new Set(list.leaves.get(rule) ?? []);
    found.nodes = above(found.ends);
    found.strong = spans(list.ofRule, [rule]);
  };
  if (what.kind === "rule") {
    ofRule(what.id);
    found.weak = spans(list.ofNode, found.nodes);
    if (listing) found.touches = touchesOf([...found.strong, ...found.weak]);
    found.said = sayRule(what.id, found);
  } else if (what.kind === "insn") {
    const rule = runAt(listing.rules, what.id);
    const node = runAt(listing.nodes, what.id);
    if (rule !== null) ofRule(rule);
    if (node !== null) found.nodes = above([node]);
    found.slot = what.id;
    found.touches = touchesOf([[what.id, what.id + 1]]);
    found.said = `instruction ${what.id}: ${list.text[what.id]}` + (rule === null ? ", shared by rules" : `, of rule ${rule}`);
  } else if (what.kind === "nodes") {
    const rules = what.nodes.map((node) => list.data.nodes[node]).filter((node) => typeof node === "number");
    if (rules.length) ofRule(rules[0]);
    found.nodes = above(what.nodes);
    found.strong = rules.length ? found.strong : spans(list.ofNode, what.nodes);
    if (listing) found.touches = touchesOf(found.strong);
    found.said = rules.length ? sayRule(rules[0], found) : "";
  } else if (what.kind === "packet") {
    ofPacket(what.id, found);
  } else {
    rulesOf(what.id).forEach((rule) => found.rules.add(rule));
    found.said = page.remarks[what.id].message;
  }
  return found;
}

function sayRule(rule, { strong }) {
  const slots = strong.reduce((sum, [start, end]) => sum + end - start, 0);
  const where = slots ? `; ${count(slots, "instruction")} of its own, from ${strong[0][0]}` : "";
  return `rule ${rule}: ${list.data.rules[rule]?.action ?? ""}${where}`;
}

/** Lights what belongs to `what`, or what is kept. */
function light(what) {
  const now = what ?? kept;
  lit = now;
  for (const old of document.querySelectorAll(".lit, .on, .at")) old.classList.remove("lit", "on", "at");
  if (!now) {
    drawPacket([], null);
    sayWay(null);
    return;
  }
  const found = belongs(now);
  const here = page.lists.indexOf(list.data);
  for (const rule of document.querySelectorAll("button.rule")) {
    if (Number(rule.dataset.list) === here && found.rules.has(Number(rule.dataset.rule))) rule.classList.add("lit");
  }
  if (now.kind === "remark") {
    for (const remark of document.querySelectorAll(`[data-remark="${now.id}"]`)) remark.classList.add("lit");
  }
  const isOn = list.shapes.map(({ group, nodes }) => {
    let on = false;
    for (const node of nodes) if (found.nodes.has(node)) on = true;
    group.classList.toggle("lit", on);
    return on;
  });
  for (const { group, from, to } of list.lines) group.classList.toggle("lit", isOn[from] && isOn[to]);
  const mark = (spans, name) => {
    for (const [start, end] of spans) {
      for (let slot = start; slot < end; slot++) $(`insn-${slot}`)?.classList.add(name);
    }
  };
  mark(found.weak, "on");
  mark(found.strong, "lit");
  if (found.slot !== null) $(`insn-${found.slot}`)?.classList.add("at");
  const [rule] = found.rules;
  drawPacket(found.touches, rule === undefined ? null : list.data.rules[rule]?.protocol);
  if (now.kind === "packet") sayWayOf(now.id);
  else sayWay(rule === undefined || now.kind === "remark" ? null : new Set(list.leaves.get(rule) ?? []), `The way to rule ${rule}`);
  return found;
}

const relight = () => light(lit);

/** Keeps it: the other panes go there, and so does the address. */
function keep(what, from = null) {
  if (what?.kind === "rule" && what.of !== undefined && page.lists[what.of] !== list.data) show(what.of);
  kept = what;
  if (!what) {
    light(null);
    $("said").textContent = "";
    address("");
    return;
  }
  const found = belongs(what);
  if (what.kind === "packet") drawLife(what.id);
  $("said").textContent = found.said;
  const [rule] = found.rules;
  if (rule !== undefined && from !== "rules") unfold("rules", list.data.derived ? rule : list.lineOf(rule));
  const slot = found.slot ?? found.strong[0]?.[0];
  if (slot !== undefined && from !== "listing") unfold("listing", slot);
  light(null);
  const into = (pane, element) => from !== pane && element && scroll($(pane).querySelector(".body"), element);
  into("rules", document.querySelector("button.rule.lit"));
  into("listing", slot === undefined ? null : $(`insn-${slot}`));
  const on = list.shapes.filter(({ group }) => group.classList.contains("lit"));
  const end = on.find(({ nodes }) => [...nodes].some((node) => found.ends.has(node))) ?? on.at(-1);
  into("diagram", end?.group);
  if (what.kind === "rule") address(`rule-${what.id}`);
  else if (what.kind === "insn") address(`insn-${what.id}`);
  else if (what.kind === "packet") address(`packet-${what.id + 1}`);
}

/** Moves a pane, and the drawing in it, and nothing else, so that the element is seen. */
function scroll(pane, element) {
  const [outer, inner] = [pane.getBoundingClientRect(), element.getBoundingClientRect()];
  if (inner.top < outer.top || inner.bottom > outer.bottom) {
    pane.scrollTop += inner.top - outer.top - outer.height / 3;
  }
  const wide = element.closest(".drawing") ?? pane;
  const { left, right, width } = wide.getBoundingClientRect();
  if (inner.left < left || inner.right > right) wide.scrollLeft += inner.left - left - width / 3;
}

function address(hash) {
  const of = page.lists.indexOf(list.data);
  const full = hash && page.lists.length > 1 ? `${of}:${hash}` : hash;
  history.replaceState(null, "", full ? `#${full}` : location.href.split("#")[0]);
}

/** What the address says is to be shown. */
function fromAddress() {
  const found = /^#(?:(\d+):)?(rule|insn|packet)-(\d+)$/u.exec(location.hash);
  if (!found) return;
  const [, of, kind, id] = found;
  if (of !== undefined && page.lists[Number(of)]) show(Number(of));
  const at = Number(id);
  const most = { rule: list.data.rules.length, insn: list.text?.length ?? 0, packet: (page.packets?.length ?? 0) + 1 }[kind];
  if (at < most) keep({ kind, id: kind === "packet" ? at - 1 : at });
}

/** One stop of the Tab key for each pane; arrows move inside. */
function stop(pane, element) {
  for (const old of pane.querySelectorAll('.item[tabindex="0"]')) old.setAttribute("tabindex", "-1");
  element?.setAttribute("tabindex", "0");
}

function listen() {
  const main = $("page");
  main.addEventListener("pointerover", (event) => {
    const what = whatIs(event.target);
    if (what && !(what.of !== undefined && page.lists[what.of] !== list.data)) light(what);
    else if (lit !== kept) light(null);
  });
  main.addEventListener("pointerleave", () => light(null));
  main.addEventListener("focusin", (event) => {
    const pane = event.target.closest(".pane");
    if (event.target.matches(".item") && pane) stop(pane, event.target);
    const what = whatIs(event.target);
    if (what && !(what.of !== undefined && page.lists[what.of] !== list.data)) light(what);
  });
  main.addEventListener("click", (event) => {
    const what = whatIs(event.target);
    if (what) keep(what, event.target.closest(".pane")?.id);
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") return keep(null);
    const pane = document.activeElement?.closest?.(".pane");
    if (!pane || !document.activeElement.matches(".item") || event.ctrlKey || event.altKey || event.metaKey) return;
    const items = [...pane.querySelectorAll(".item")].filter((item) => item.checkVisibility?.() ?? true);
    const at = items.indexOf(document.activeElement);
    const to = { ArrowDown: at + 1, ArrowRight: at + 1, ArrowUp: at - 1, ArrowLeft: at - 1, Home: 0, End: items.length - 1 }[event.key];
    if (event.key === "Enter" || event.key === " ") {
      event.preventDefault();
      return keep(whatIs(document.activeElement), pane.id);
    }
    if (to === undefined) return;
    event.preventDefault();
    items[to]?.focus();
  });
  window.addEventListener("hashchange", fromAddress);
}
