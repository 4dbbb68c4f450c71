// Tables sort and filter; figures open large. Without scripts the page is whole, and only that is missing.
"use strict";
(function () {
  const number = (cell) => {
    const drawn = cell.querySelector("circle");
    const said = drawn ? drawn.getAttribute("cx") : (cell.firstChild ? cell.firstChild.textContent : "");
    const plain = said.trim().replace(/^<\s*/, "").replace(/^\[([^,]*),.*\]$/, "$1").replace(/[\s,]/g, "").replace("−", "-");
    return plain === "" || plain === "–" ? NaN : Number(plain);
  };

  function sortable(table) {
    const body = table.tBodies[0];
    const rows = [...body.rows];
    const heads = [...table.tHead.rows[0].cells];
    heads.forEach((head, k) => {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...head.childNodes);
      head.append(button);
      head.setAttribute("aria-sort", "none");
      const numbers = rows.map((row) => number(row.cells[k]));
      const inNumbers = numbers.some((value) => !Number.isNaN(value)) && rows.every((row, i) => !Number.isNaN(numbers[i]) || ["", "–"].includes(row.cells[k].textContent.trim()));
      button.addEventListener("click", () => {
        const was = head.getAttribute("aria-sort");
        const now = was === "none" ? (inNumbers ? "descending" : "ascending") : was === "ascending" ? (inNumbers ? "none" : "descending") : inNumbers ? "ascending" : "none";
        for (const other of heads) other.setAttribute("aria-sort", "none");
        head.setAttribute("aria-sort", now);
        const sign = now === "descending" ? -1 : 1;
        const place = new Map(rows.map((row, i) => [row, i]));
        const sorted = now === "none" ? rows : [...rows].sort((a, b) => {
          if (!inNumbers) return sign * a.cells[k].textContent.localeCompare(b.cells[k].textContent, "en", { numeric: true });
          const x = numbers[place.get(a)], y = numbers[place.get(b)];
          if (Number.isNaN(x) || Number.isNaN(y)) return Number.isNaN(x) - Number.isNaN(y); // the undefined last
          return sign * (x - y);
        });
        body.append(...sorted);
      });
    });
    if (rows.length <= 8) return;
    const filter = document.createElement("input");
    filter.type = "search";
    filter.className = "filter";
    filter.placeholder = `Filter ${rows.length} rows`;
    filter.setAttribute("aria-label", "Filter the rows of the table");
    filter.addEventListener("input", () => {
      const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
      for (const row of rows) {
        const text = row.textContent.toLowerCase();
        row.hidden = !words.every((word) => text.includes(word));
      }
    });
    table.closest(".scroll").before(filter);
  }
  for (const table of document.querySelectorAll("table")) sortable(table);

  const box = document.getElementById("lightbox");
  const buttons = [...document.querySelectorAll(".zoom")];
  let now = 0;
  function open(k) {
    now = k;
    const small = buttons[k].querySelector("img");
    const image = document.createElement("img");
    image.src = small.src;
    image.alt = small.alt;
    const bar = document.createElement("div");
    bar.className = "bar";
    const place = document.createElement("span");
    place.textContent = `${k + 1} of ${buttons.length}`;
    bar.append(place);
    for (const [sign, name, act] of [["←", "Previous figure", () => step(-1)], ["→", "Next figure", () => step(1)], ["✕", "Close", () => box.close()]]) {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = sign;
      button.setAttribute("aria-label", name);
      button.addEventListener("click", act);
      bar.append(button);
    }
    box.replaceChildren(bar, image, buttons[k].parentElement.querySelector("figcaption").cloneNode(true));
    if (!box.open) box.showModal();
    box.focus({ preventScroll: true }); // what had it is gone, and keys must still arrive here
  }
  const step = (by) => open((now + by + buttons.length) % buttons.length);
  buttons.forEach((button, k) => button.addEventListener("click", () => open(k)));
  box.addEventListener("keydown", (event) => {
    if (event.key === "ArrowLeft") step(-1);
    if (event.key === "ArrowRight") step(1);
  });
  box.addEventListener("click", (event) => { if (event.target === box) box.close(); });
  box.addEventListener("close", () => buttons[now].focus());
  // What is folded away is printed, too.
  window.addEventListener("beforeprint", () => { for (const folded of document.querySelectorAll("details")) folded.open = true; });
})();
