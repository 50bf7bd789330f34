// Packets: a table of them, and the life of the one that is looked at.

/** Rows that are drawn at once. */
const ROWS = 200;
/** The packet whose life is shown, and the order of the table: a column, and whether it is turned round. */
let seen = 0;
let order = [0, false];

const lifeOf = (packet) => packet.lives[page.lists.indexOf(list.data)];

function drawPackets() {
  const pane = $("packets");
  pane.hidden = !page.packets.length;
  if (pane.hidden) return;
  const body = pane.querySelector(".body");
  const several = page.packets.length > 1;
  $("packets-title").textContent = several ? count(page.packets.length, "packet") : "The packet";
  if (page.captured > page.packets.length) $("packets-title").textContent += `, the first of ${number(page.captured)}`;
  body.replaceChildren(...(several ? [table()] : []), el("div", { id: "life" }));
  drawLife(seen);
}

function table() {
  const columns = ["number", "packet", "rule", "fate"];
  const rows = page.packets.map((packet, at) => {
    const { rule, fate, verdict } = lifeOf(packet);
    return { at, cells: [at + 1, packet.title, rule ?? -1, fate], verdict };
  });
  const [by, turned] = order;
  const compare = (a, b) => (typeof a === "number" ? a - b : a.localeCompare(b));
  rows.sort((a, b) => (compare(a.cells[by], b.cells[by]) || a.at - b.at) * (turned ? -1 : 1));
  const heads = columns.map((name, column) => {
    const sorted = column === by ? (turned ? "descending" : "ascending") : "none";
    const button = el("button", { type: "button" }, name);
    button.addEventListener("click", () => {
      order = [column, column === order[0] && !order[1]];
      drawPackets();
      $("packets").querySelectorAll("th button")[column].focus();
      stop($("packets"), $("packets").querySelector(".item"));
      relight();
    });
    return el("th", { scope: "col", "aria-sort": sorted }, button);
  });
  const body = el("tbody");
  const row = ({ at, cells: [, title, rule, fate], verdict }) =>
    el(
      "tr",
      { "data-packet": at, class: `${fate.replace(" ", "-")} ${at === seen ? "seen" : ""}` },
      el("td", {}, el("button", { class: "item", type: "button", tabindex: -1, id: `packet-${at + 1}` }, String(at + 1))),
      el("td", {}, shown(title)),
      el("td", {}, rule < 0 ? "none" : `rule ${rule}`),
      el("td", { class: "fate" }, shown(verdict)),
    );
  const more = el("button", { class: "more", type: "button" });
  let drawn = 0;
  const next = () => {
    for (const one of rows.slice(drawn, drawn + ROWS)) body.append(row(one));
    drawn = Math.min(drawn + ROWS, rows.length);
    more.hidden = drawn === rows.length;
    more.textContent = `${number(rows.length - drawn)} more packets`;
  };
  more.addEventListener("click", next);
  next();
  return el("div", { class: "table" }, el("table", {}, el("thead", {}, el("tr", {}, heads)), body), more);
}

function drawLife(at) {
  seen = at;
  const into = $("life");
  const packet = page.packets[at];
  if (!into || !packet) return;
  for (const row of $("packets").querySelectorAll("tr[data-packet]")) row.classList.toggle("seen", Number(row.dataset.packet) === at);
  const life = lifeOf(packet);
  const rule = life.rule === null ? null : list.data.rules[life.rule];
  const said = el("p", { class: "verdict" });
  const link = (what, id, text) => el("button", { class: "to", type: "button", [`data-${what}`]: id, "data-list": page.lists.indexOf(list.data) }, text);
  if (life.not) said.append(life.not);
  else if (rule) said.append(link("rule", life.rule, `rule ${life.rule}`), " takes it: ", el("b", {}, shown(rule.action.slice(0, 200))));
  else said.append("no rule takes it");
  if (life.decides !== null) {
    const answer = `${list.notes[life.decides]}: ${life.holds ? "yes" : "no"}`;
    said.append("; decided by ", link("slot", life.decides, `instruction ${life.decides}`), ` (${answer})`);
  }
  const isRun = life.fate !== "not run";
  said.append(isRun ? ". It is " : ". Not known is what the kernel does: ", el("b", { class: `fate ${life.fate.replace(" ", "-")}` }, shown(life.verdict)), ".");
  const title = page.packets.length > 1 ? `Packet ${at + 1}: ` : "";
  into.replaceChildren(el("h3", {}, title, shown(packet.title)), said, refused(life), headersOf(life));
}

function refused({ misses, more }) {
  if (!misses.length) return el("div");
  const items = misses.map(([rule, why]) =>
    el("li", {}, el("button", { class: "to", type: "button", "data-rule": rule, "data-list": page.lists.indexOf(list.data) }, `rule ${rule}`), ": ", shown(why.slice(0, 300))),
  );
  const before = more ? el("li", {}, `rules 0 to ${number(more - 1)} did not take it, either`) : null;
  return el("details", { class: "refused", open: misses.length <= 4 }, el("summary", {}, "Rules that did not take it, and what refused"), el("ul", {}, before, items));
}

function headersOf({ blocks }) {
  const changes = [];
  const draw = ({ header, title, what, cells }) => {
    const layout = layoutOf(header);
    const drawn = drawHeader(layout, (cell) => {
      const [old, now] = cells[cell];
      return el("span", { class: "value" }, now === null ? old : [el("s", {}, old), " ", el("b", {}, now)]);
    });
    drawn.querySelector("h3").replaceChildren(`${title}${what ? `: ${what}` : ""}`);
    drawn.classList.add("block");
    if (what) drawn.classList.add(what);
    const boxes = [...drawn.querySelectorAll(".cell")];
    const parts = partsOf(layout.cells);
    cells.forEach(([old, now, why], cell) => {
      const mine = boxes.filter((box, at) => parts[at].cell === cell);
      if (why) mine.forEach((box) => (box.title = why));
      if (now !== null) {
        mine.forEach((box) => box.classList.add("changed"));
        changes.push([`${layout.name}, ${layout.cells[cell][0]}`, old, now, why]);
      } else if (what === "pushed" && why) {
        changes.push([`${layout.name}, ${layout.cells[cell][0]}`, "", old, why]);
      }
    });
    return drawn;
  };
  const drawn = blocks.map(draw);
  const rows = changes.map(([name, old, now, why]) =>
    el("tr", {}, el("th", { scope: "row" }, name), el("td", {}, old), el("td", {}, now), el("td", { class: "faint" }, why ?? "")),
  );
  const head = el("tr", {}, ["field", "before", "after", "why"].map((name) => el("th", { scope: "col" }, name)));
  const list = rows.length ? el("table", { class: "changes" }, el("thead", {}, head), el("tbody", {}, rows)) : null;
  return el("div", { class: "life" }, el("div", { class: "blocks" }, drawn), list);
}

/** What belongs to a packet: its rule, its way, and the instructions on it. */
function ofPacket(at, found) {
  const life = lifeOf(page.packets[at]);
  if (life.rule !== null) {
    found.rules.add(life.rule);
    found.strong = [...(list.ofRule?.get(life.rule) ?? [])];
  }
  found.nodes = new Set(life.way);
  found.ends = new Set(life.way.slice(-1));
  found.weak = life.slots.map((slot) => [slot, slot + 1]);
  found.slot = life.decides;
  if (list.data.listing) found.touches = touchesOf([...found.weak, ...found.strong]);
  found.said = `packet ${at + 1}: ${life.rule === null ? "no rule" : `rule ${life.rule}`}, ${life.verdict}`;
}
