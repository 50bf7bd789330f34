// The decision diagram: drawings, the way to a rule in words, and all of it as a tree.

function drawDiagram(body) {
  body.replaceChildren();
  list.shapes = [];
  list.lines = [];
  for (const drawing of list.data.drawings) body.append(el("h3", {}, drawing.title), draw(drawing));
  if (!list.data.drawings.length) body.append(el("p", {}, "No packet is asked anything."));
  body.append(el("div", { id: "way" }));
  const tree = el("details", { class: "tree" }, el("summary", {}, "All of it, as a tree"));
  tree.addEventListener("toggle", () => {
    if (tree.open && tree.children.length === 1) tree.append(el("ul", {}, list.data.roots.map((root) => branch(root.name, root.node))));
  });
  body.append(tree);
}

function draw(drawing) {
  const first = list.shapes.length;
  const picture = svg("svg", {
    viewBox: `0 0 ${drawing.width} ${drawing.height}`,
    width: drawing.width,
    height: drawing.height,
    role: "group",
    "aria-label": `Decision diagram, ${drawing.title}`,
  });
  // Shrunk a little rather than cut off.
  picture.style.minWidth = `${Math.round(0.72 * drawing.width)}px`;
  for (const shape of drawing.shapes) {
    if (shape.after === undefined) continue;
    const folded = (test) => list.data.nodes[test][1].slice(shape.after).map((arm) => arm[1]);
    shape.nodes = shape.nodes.flatMap(folded);
    delete shape.after;
  }
  const warm = drawing.shapes.map((shape) => heat(packetsBelow(shape.nodes)));
  for (const line of drawing.lines) {
    const group = svg(
      "g",
      { class: "line" },
      svg("title", {}, line.full.slice(0, 2000)),
      svg("path", { d: line.path }),
      svg("text", { x: line.x, y: line.y + 4 }, line.text),
    );
    if (warm[line.to]) group.querySelector("path").style.strokeWidth = String(1.3 + 6 * warm[line.to]);
    if (warm[line.to]) group.classList.add("warm");
    picture.append(group);
    list.lines.push({ group, from: first + line.from, to: first + line.to });
  }
  for (const shape of drawing.shapes) {
    const at = list.shapes.length;
    const group = svg(
      "g",
      { class: `shape item ${shape.kind}`, role: "button", tabindex: -1, "data-shape": at, "aria-label": nameOf(shape) },
      svg("rect", {
        x: shape.x,
        y: shape.y,
        width: shape.width,
        height: shape.height,
        rx: shape.kind === "test" ? shape.height / 2 : 4,
      }),
      svg("text", { x: shape.x + shape.width / 2, y: shape.y + shape.height / 2 + 4 }, shape.text),
    );
    const hot = warm[drawing.shapes.indexOf(shape)];
    if (hot) group.style.setProperty("--heat", `${Math.round(100 * hot)}%`);
    if (hot) group.classList.add("warm");
    picture.append(group);
    list.shapes.push({ group, nodes: new Set(shape.nodes), shape });
  }
  return el("div", { class: "drawing" }, picture);
}

/** What the rules that can be reached from there have counted: no more than that has come by. */
function packetsBelow(nodes) {
  if (!list.most) return 0;
  const rules = new Set();
  const known = new Set(nodes);
  for (const node of known) {
    const what = list.data.nodes[node];
    if (typeof what === "number") rules.add(what);
    else if (what !== null) [...what[1].map((arm) => arm[1]), what[2]].forEach((then) => known.add(then));
    if (known.size > 5000) return 0;
  }
  return [...rules].reduce((sum, rule) => sum + (list.data.rules[rule]?.count?.packets ?? 0), 0);
}

function nameOf({ kind, text }) {
  return kind === "test" ? `test of ${text}` : kind === "more" ? `${text}, folded` : text;
}

const nodeName = (node) => {
  const what = list.data.nodes[node];
  if (what === null) return "no rule";
  if (typeof what === "number") return `rule ${what}: ${list.data.rules[what]?.action ?? ""}`;
  return null;
};

/** A node of the tree, with what follows drawn when it is opened. */
function branch(label, node, from = 0) {
  const leaf = nodeName(node);
  if (leaf !== null) {
    const button = el("button", { class: "leaf", type: "button", "data-node": node }, `${label} → ${leaf.slice(0, 120)}`);
    return el("li", {}, button);
  }
  const [field, arms, rest] = list.data.nodes[node];
  const fold = el("details", {}, el("summary", {}, `${label} → ${field}?`));
  fold.addEventListener("toggle", () => {
    if (!fold.open || fold.children.length > 1) return;
    const items = el("ul");
    const more = (start) => {
      const end = Math.min(start + 100, arms.length);
      for (const [values, then] of arms.slice(start, end)) items.append(branch(`${field} ${values}`, then));
      if (end === arms.length) return items.append(branch("else", rest));
      const next = el("button", { class: "more", type: "button" }, `${number(arms.length - end)} more`);
      const item = el("li", {}, next);
      next.addEventListener("click", () => (item.remove(), more(end)));
      items.append(item);
    };
    more(from);
    fold.append(items);
  });
  return el("li", {}, fold);
}

/** From each root, the first way that leads to one of the nodes: what is asked, and the answers. */
function waysTo(nodes) {
  const on = above(nodes);
  return list.data.roots.flatMap(({ name, node }) => {
    if (!on.has(node)) return [];
    const steps = [];
    let at = node;
    while (!nodes.has(at)) {
      const [, arms, rest] = list.data.nodes[at];
      const then = arms.find((arm) => on.has(arm[1]))?.[1] ?? rest;
      steps.push(step(at, then));
      at = then;
    }
    return [{ name, steps }];
  });
}

/** A question, and the answers that lead to the next one. */
function step(at, then) {
  const [field, arms] = list.data.nodes[at];
  const values = arms.filter((arm) => arm[1] === then).map(([text]) => text);
  return values.length ? `${field} ${values.join(" or ")}` : `${field} is another`;
}

/** What a packet was asked, and what it answered. */
function sayWayOf(packet) {
  const { way } = lifeOf(page.packets[packet]);
  const names = list.data.roots.filter(({ node }) => node === way[0]).map(({ name }) => name);
  const steps = way.slice(1).map((then, at) => step(way[at], then));
  const which = page.packets.length > 1 ? `packet ${packet + 1}` : "the packet";
  write(names.map((name) => ({ name, steps })), `The way of ${which}`);
}

function sayWay(nodes, title) {
  write(nodes?.size ? waysTo(nodes) : [], title);
}

/** Ways in words, below the drawings. */
function write(ways, title) {
  const way = $("way");
  if (!way) return;
  way.replaceChildren();
  const all = new Map();
  for (const { name, steps } of ways) {
    const key = steps.join("\n");
    all.set(key, { steps, names: [...(all.get(key)?.names ?? []), name] });
  }
  const items = [...all.values()].map(({ steps, names }) =>
    el("li", {}, el("b", {}, names.join(", ")), steps.map((step) => [" → ", el("span", {}, step.slice(0, 120))])),
  );
  if (items.length) way.append(el("h3", {}, title), el("ul", {}, items));
}
