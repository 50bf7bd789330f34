// Headers as the RFCs draw them: rows of 32 bits.

/** The parts of a header's cells, none of which goes over the end of a row. */
function partsOf(cells) {
  const parts = [];
  let bit = 0;
  cells.forEach(([name, bits], cell) => {
    let first = true;
    const end = bit + bits;
    while (bit < end) {
      const next = Math.min(end, 32 * (Math.floor(bit / 32) + 1));
      parts.push({ cell, name, from: bit, to: next, first });
      first = false;
      bit = next;
    }
  });
  return parts;
}

/** A header; `inside` says what stands in a cell besides its name. */
function drawHeader(layout, inside = () => null) {
  const grid = el("div", { class: "bits" });
  const ends = partsOf(layout.cells);
  for (const part of ends) {
    const width = part.to - part.from;
    const box = el(
      "div",
      { class: `cell w${width} ${width < 7 ? "narrow" : ""}`, "data-from": part.from, "data-to": part.to },
      part.first ? el("span", { class: "name" }, part.name) : el("span", { class: "name again" }, "…"),
      part.first ? inside(part.cell) : null,
    );
    box.style.gridColumn = `${(part.from % 32) + 1} / span ${width}`;
    grid.append(box);
  }
  return el("div", { class: "layout", "data-header": layout.key }, el("h3", {}, layout.name), grid);
}

const layoutOf = (key) => page.headers.find((layout) => layout.key === key);

/** The headers of a packet of this kind, with bits that are touched. */
function drawPacket(touches, protocol) {
  const body = $("header").querySelector(".body");
  const has = (key) => touches.some((touch) => touch.header === key);
  const ip = has("ipv6") && !has("ipv4") ? "ipv6" : "ipv4";
  const other = ip === "ipv4" && has("ipv6") ? ["ipv6"] : [];
  const l4 = [has("tcp") && "tcp", has("udp") && "udp"].filter(Boolean);
  if (!l4.length) l4.push(protocol ?? "tcp");
  const keys = ["ethernet", ip, ...other, ...l4];
  if (body.dataset.keys !== keys.join()) {
    body.dataset.keys = keys.join();
    body.replaceChildren(...keys.map((key) => drawHeader(layoutOf(key))));
  }
  for (const cell of body.querySelectorAll(".cell")) {
    const header = cell.closest(".layout").dataset.header;
    const hows = touches.filter(
      (touch) =>
        (touch.header === header || (touch.header === "l4" && (header === "tcp" || header === "udp"))) &&
        touch.first < Number(cell.dataset.to) &&
        touch.first + touch.bits > Number(cell.dataset.from),
    );
    for (const how of ["reads", "writes", "compares"]) cell.classList.toggle(how, hows.some((touch) => touch.how === how));
  }
}
