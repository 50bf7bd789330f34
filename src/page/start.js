// Draws the page.

function show(of) {
  const data = page.lists[of];
  list = list?.all?.get(data) ?? { ...prepare(data), all: list?.all ?? new Map() };
  list.all.set(data, list);
  kept = lit = null;
  drawRules($("rules").querySelector(".body"));
  drawDiagram($("diagram").querySelector(".body"));
  drawListing($("listing").querySelector(".body"));
  drawPacket([], null);
  drawPackets();
  for (const pane of document.querySelectorAll(".pane")) stop(pane, pane.querySelector(".item"));
  $("listing").hidden = !data.listing;
  $("header").hidden = !data.listing;
  $("page").classList.toggle("two", !data.listing);
  const parts = [count(data.rules.length, "rule")];
  if (data.listing) parts.push(count(list.text.length, "instruction"));
  if (page.remarks.length) parts.push(count(page.remarks.length, "remark"));
  $("summary").textContent = parts.join(" · ");
  for (const button of $("lists").children) {
    button.setAttribute("aria-pressed", String(Number(button.dataset.show) === of));
  }
}

load().then((data) => {
  page = data;
  $("notes").hidden = !page.notes.length;
  $("notes").append(...page.notes.map((note) => el("li", {}, shown(note))));
  if (!page.lists.length) {
    $("page").replaceChildren(el("p", {}, "Nothing of sfunnel's is attached."));
    document.documentElement.dataset.ready = "yes";
    return;
  }
  if (page.lists.length > 1) {
    const button = (data, of) => el("button", { type: "button", "data-show": of }, shown(data.name));
    $("lists").append(...page.lists.map(button));
    $("lists").addEventListener("click", (event) => {
      const of = event.target.closest("[data-show]")?.dataset.show;
      if (of !== undefined) {
        show(Number(of));
        address("");
      }
    });
  }
  show(0);
  listen();
  if (page.packets.length && !location.hash) keep({ kind: "packet", id: 0 });
  fromAddress();
  document.documentElement.dataset.ready = "yes";
});
