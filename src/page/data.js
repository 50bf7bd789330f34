// What the page holds, and how elements are made of it. Text of users' only ever becomes text.

const $ = (id) => document.getElementById(id);
const SVG = "http://www.w3.org/2000/svg";

let page = null;
/** The list that is shown, and what has been worked out about it. */
let list = null;

async function load() {
  const packed = atob($("data").textContent.trim());
  const bytes = new Uint8Array(packed.length);
  for (let at = 0; at < packed.length; at++) bytes[at] = packed.charCodeAt(at);
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate-raw"));
  return unpack(JSON.parse(await new Response(stream).text()));
}

/** Data as it is used, of data as it is short. */
function unpack(data) {
  const sums = (distances) => {
    let sum = 0;
    return distances.map((distance) => (distance === null ? null : (sum += distance)));
  };
  for (const made of data.lists) {
    const { starts, lengths, texts, words, protocols, actions, counts } = made.rules;
    made.rules = sums(starts).map((start, at) => ({
      start,
      end: start + lengths[at],
      text: texts[at],
      protocol: words[protocols[at]],
      action: words[actions[at]],
      count: counts[at],
    }));
    made.nodes.forEach((node, at) => {
      if (node === null || typeof node === "number") return;
      for (const arm of node[1]) arm[1] = at - arm[1];
      node[2] = at - node[2];
    });
    if (!made.listing) continue;
    const runs = ({ slots, values }) => sums(slots).map((slot, at) => [slot, values[at]]);
    const { labels, rules, nodes } = made.listing;
    made.listing.labels = runs(labels);
    made.listing.rules = runs({ slots: rules.slots, values: sums(rules.values) });
    made.listing.nodes = runs({ slots: nodes.slots, values: sums(nodes.values) });
  }
  return data;
}

/** An element with attributes and children; strings become text. */
function el(name, attributes = {}, ...children) {
  return fill(document.createElement(name), attributes, children);
}

function svg(name, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, name), attributes, children);
}

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== null && value !== undefined && value !== false) element.setAttribute(name, value);
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined));
  return element;
}

// What cannot be seen, or changes the order of what can.
const HIDDEN = /[\u0000-\u0008\u000a-\u001f\u007f-\u009f\u00ad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]/u;

/** Text in which everything can be seen. */
function shown(text) {
  if (!HIDDEN.test(text)) return [text];
  const parts = [];
  let plain = "";
  for (const char of text) {
    if (HIDDEN.test(char)) {
      const code = char.codePointAt(0).toString(16).toUpperCase().padStart(4, "0");
      parts.push(plain, el("span", { class: "hidden-char" }, "U+" + code));
      plain = "";
    } else {
      plain += char;
    }
  }
  return [...parts, plain].filter((part) => part !== "");
}

// Made once: it costs more than what it is used for.
const NUMBERS = new Intl.NumberFormat("en");
const number = (value) => NUMBERS.format(value);
const count = (value, noun) => `${number(value)} ${noun}${value === 1 ? "" : "s"}`;

/** The first index for which it holds; from there on it must hold for all. */
function firstThat(length, holds) {
  let [low, high] = [0, length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (holds(middle)) high = middle;
    else low = middle + 1;
  }
  return low;
}

/** The value that holds at a place, in runs that each say where they begin. */
function runAt(runs, at) {
  const next = firstThat(runs.length, (index) => runs[index][0] > at);
  return next === 0 ? null : runs[next - 1][1];
}

/** For each value, the slots at which it holds, as pairs of first and behind. */
function spansOf(runs, end) {
  const spans = new Map();
  runs.forEach(([start, value], at) => {
    if (value === null) return;
    const behind = at + 1 < runs.length ? runs[at + 1][0] : end;
    if (!spans.has(value)) spans.set(value, []);
    spans.get(value).push([start, behind]);
  });
  return spans;
}

/** A list with its indexes; each is made once. */
function prepare(data) {
  const made = { data, leaves: new Map(), parents: data.nodes.map(() => []) };
  data.nodes.forEach((node, at) => {
    if (typeof node === "number") {
      if (!made.leaves.has(node)) made.leaves.set(node, []);
      made.leaves.get(node).push(at);
    } else if (node !== null) {
      for (const then of new Set([...node[1].map((arm) => arm[1]), node[2]])) made.parents[then].push(at);
    }
  });
  made.most = data.rules.reduce((most, rule) => Math.max(most, rule.count?.packets ?? 0), 0);
  if (data.listing) {
    made.text = data.listing.text.split("\n");
    made.notes = data.listing.notes.split("\n");
    made.ofRule = spansOf(data.listing.rules, made.text.length);
    made.ofNode = spansOf(data.listing.nodes, made.text.length);
    made.labels = new Map(data.listing.labels);
  }
  return made;
}

/** These nodes and all from which a way leads to them. */
function above(nodes) {
  const found = new Set(nodes);
  const waiting = [...nodes];
  while (waiting.length) {
    for (const parent of list.parents[waiting.pop()]) {
      if (!found.has(parent)) {
        found.add(parent);
        waiting.push(parent);
      }
    }
  }
  return found;
}

/** What is long, in parts that are drawn when they are opened. `title` is a part's, `draw` makes one item. */
function folded(total, size, title, draw, attributes = {}) {
  const part = (start) => {
    const end = Math.min(start + size, total);
    const items = el("ol", { ...attributes, start: start + 1 });
    for (let at = start; at < end; at++) items.append(draw(at));
    return items;
  };
  if (total <= 2 * size) return [total > 0 ? part(0) : null];
  const parts = [];
  for (let start = 0; start < total; start += size) {
    const end = Math.min(start + size, total);
    const fold = el("details", { class: "part", "data-start": start }, el("summary", {}, title(start, end)));
    fold.fill = () => {
      if (fold.children.length === 1) fold.append(part(start));
    };
    fold.addEventListener("toggle", () => fold.open && (fold.fill(), relight()));
    parts.push(fold);
  }
  parts[0].fill();
  parts[0].open = true;
  return parts;
}

/** Opens the part of a pane that an item is in. */
function unfold(pane, at) {
  const parts = [...$(pane).querySelectorAll(".body details.part")];
  const fold = parts.reverse().find((part) => Number(part.dataset.start) <= at);
  if (fold && !fold.open) {
    fold.fill();
    fold.open = true;
  }
}
