// The rules as they were written, what `check` says about them, and rules that follow from them.

/** Characters of a line that are drawn before one asks for the rest. */
const LINE = 300;

/** Where rules stand in the text, in order: of all lists, or of the one that is shown if others follow from a text. */
function places() {
  const all = [];
  page.lists.forEach((data, of) => {
    if (data.derived && data !== list.data) return;
    data.rules.forEach(({ start, end }, rule) => all.push({ start, end, of, rule }));
  });
  all.sort((a, b) => a.start - b.start || a.rule - b.rule);
  let behind = 0;
  return all.filter((place) => {
    const apart = place.start >= behind && place.end > place.start;
    if (apart) behind = place.end;
    return apart;
  });
}

/** Where lines begin, with the piece that they are in. */
function lines() {
  const all = [];
  page.pieces.forEach((piece, of) => {
    let at = piece.start;
    let line = 1;
    for (;;) {
      const next = page.text.indexOf("\n", at);
      const end = next < 0 || next >= piece.end ? piece.end : next;
      const seen = page.text[end - 1] === "\r" && end > at ? end - 1 : end;
      // A line end at the end begins no line.
      if (at < piece.end || line === 1) all.push({ start: at, end: seen, line, of });
      if (end === piece.end) return;
      at = end + 1;
      line++;
    }
  });
  return all;
}

function lineAt(all, at) {
  return Math.max(firstThat(all.length, (index) => all[index].start > at) - 1, 0);
}

function drawRules(body) {
  const all = lines();
  const rules = places();
  const remarks = new Map();
  page.remarks.forEach((remark, index) => {
    const at = lineAt(all, remark.labels[0].start);
    if (!remarks.has(at)) remarks.set(at, []);
    remarks.get(at).push(index);
  });
  list.lineOf = (rule) => lineAt(all, list.data.rules[rule].start);
  body.replaceChildren();
  if (list.data.facts.length) {
    body.append(el("dl", {}, list.data.facts.map(([name, fact]) => [el("dt", {}, name), el("dd", {}, shown(fact))])));
  }
  if (page.remarks.length) body.append(summaryOfRemarks());
  if (list.data.derived) body.append(derived(), el("h3", {}, "As written"));
  body.append(
    ...folded(
      all.length,
      400,
      (start, end) => `lines ${number(start + 1)} to ${number(end)}`,
      (at) => drawLine(all, at, rules, remarks.get(at) ?? []),
      { class: "source" },
    ),
  );
}

function drawLine(all, at, rules, remarks) {
  const { start, end, line, of } = all[at];
  const code = el("code");
  const item = el("li", {}, el("span", { class: "no", "aria-hidden": "true" }, String(line)), code);
  drawText(code, start, end, rules, LINE);
  if (line === 1 && page.pieces.length > 1) item.prepend(el("span", { class: "piece" }, shown(page.pieces[of].name)));
  for (const rule of counted(start, end, rules)) item.append(drawCount(rule));
  for (const remark of remarks) item.append(drawRemark(remark, all, at));
  return item;
}

/** Rules of the list that end in a line, and have counted. */
function counted(start, end, rules) {
  const found = [];
  for (let at = firstThat(rules.length, (index) => rules[index].end > start); at < rules.length && rules[at].end <= end; at++) {
    const rule = page.lists[rules[at].of] === list.data ? list.data.rules[rules[at].rule] : null;
    if (rule?.count) found.push(rule);
  }
  return found;
}

/** How warm it is, 0 to 1: each tenth of the most is a step less. */
function heat(packets) {
  if (!packets || !list.most) return 0;
  return Math.max(0.15, 1 + Math.log10(packets / list.most) / 5);
}

function drawCount({ count: { packets, bytes, reasons } }) {
  const bar = el("span", { class: "bar", "aria-hidden": "true" });
  bar.style.width = `${Math.round(120 * heat(packets))}px`;
  const said = `${count(packets, "packet")}, ${count(bytes, "byte")}`;
  const rest = reasons.map(([reason, packets]) => el("span", { class: "reason" }, `${reason}: ${count(packets, "packet")}`));
  return el("span", { class: "count" }, bar, said, rest);
}

/** Plain text and rules, in turn; what is beyond `most` characters when one asks for it. */
function drawText(code, start, end, rules, most) {
  const stop = Math.min(end, start + most);
  let at = start;
  let next = firstThat(rules.length, (index) => rules[index].end > start);
  while (at < stop) {
    const rule = rules[next];
    if (!rule || rule.start >= stop) {
      code.append(...plain(page.text.slice(at, stop)));
      break;
    }
    const from = Math.max(rule.start, at);
    if (from > at) code.append(...plain(page.text.slice(at, from)));
    const to = Math.min(rule.end, stop);
    code.append(drawRule(rule, page.text.slice(from, to), rule.start >= start));
    at = to;
    next++;
  }
  if (stop < end) {
    const more = el("button", { class: "more", type: "button", tabindex: -1 }, `${number(end - stop)} more characters`);
    more.addEventListener("click", () => {
      more.remove();
      drawText(code, stop, end, rules, 20 * LINE);
      relight();
    });
    code.append(more);
  }
}

/** What is in no rule: comments are fainter. */
function plain(text) {
  const at = text.indexOf("#");
  if (at < 0) return shown(text);
  return [...shown(text.slice(0, at)), el("span", { class: "comment" }, shown(text.slice(at)))];
}

function drawRule({ of, rule }, text, isFirst) {
  const here = page.lists[of] === list.data;
  return el(
    "button",
    {
      class: `rule ${isFirst ? "item" : ""} ${here ? "" : "elsewhere"}`,
      id: here && isFirst && !list.data.derived ? `rule-${rule}` : null,
      type: "button",
      tabindex: -1,
      "data-rule": rule,
      "data-list": of,
      "aria-describedby": "said",
    },
    shown(text),
  );
}

function derived() {
  const draw = (rule) => {
    const { text, count } = list.data.rules[rule];
    const button = drawRule({ of: page.lists.indexOf(list.data), rule }, text, true);
    button.id = `rule-${rule}`;
    return el("li", {}, el("span", { class: "no", "aria-hidden": "true" }, String(rule)), el("code", {}, button));
  };
  const title = (start, end) => `rules ${number(start)} to ${number(end - 1)}`;
  return el("div", {}, el("h3", {}, list.data.name), folded(list.data.rules.length, 400, title, draw, { class: "source" }));
}

function summaryOfRemarks() {
  const links = page.remarks.slice(0, 50).map((remark, index) =>
    el(
      "li",
      {},
      el(
        "button",
        { class: `to-remark item ${remark.severity}`, type: "button", tabindex: -1, "data-remark": index },
        el("b", {}, `${remark.severity}: `),
        shown(remark.message.slice(0, LINE)),
      ),
    ),
  );
  const more = page.remarks.length - links.length;
  const rest = more > 0 ? el("li", {}, `and ${number(more)} more, beside the rules`) : null;
  return el("ul", { class: "remarks" }, links, rest);
}

/** As on a terminal: the message, carets below what it is about, the remedy. */
function drawRemark(index, all, at) {
  const remark = page.remarks[index];
  const carets = remark.labels.map((label) => {
    const line = all[lineAt(all, label.start)];
    const column = label.start - line.start;
    const length = Math.max(1, Math.min(label.end, line.end) - label.start);
    if (line !== all[at] || column + length > 150) return el("span", { class: "label" }, `line ${line.line}: `, shown(label.text));
    const mark = label === remark.labels[0] ? "^" : "-";
    return el("span", { class: "label" }, " ".repeat(column) + mark.repeat(length) + " ", shown(label.text));
  });
  return el(
    "button",
    { class: `remark ${remark.severity}`, type: "button", tabindex: -1, "data-remark": index },
    carets,
    el("span", { class: "message" }, el("b", {}, `${remark.severity}: `), shown(remark.message)),
    remark.help ? el("span", { class: "help" }, "help: ", shown(remark.help)) : null,
  );
}

/** The rules that take part in what is said. */
function rulesOf(remark) {
  const meets = (rule) => page.remarks[remark].labels.some(({ start, end }) => rule.start < Math.max(end, start + 1) && start < rule.end);
  return list.data.rules.flatMap((rule, at) => (meets(rule) ? [at] : []));
}
