// The gallery. Its data are in window.GALLERY (gallery/data.js). Names of files come from anywhere: they only ever become
// text or encoded parts of an address, never markup.
"use strict";
(function () {
  const G = window.GALLERY;
  const at = (id) => document.getElementById(id);
  if (!G) {
    at("results").textContent = "gallery/data.js did not load. Keep the folder gallery/ beside gallery.html.";
    return;
  }

  // ------------------------------------------------------------------------------------------- data

  const N = G.ids.length;
  const columns = new Map();
  for (const column of G.columns) {
    column.values = Float64Array.from(column.values, (value) => (value === null ? NaN : value));
    column.name = column.label.replaceAll("_", " "); // breaks into lines
    columns.set(column.key, column);
  }
  const about = (column) => `${column.key}: ${column.meaning}${column.unit ? ` (${column.unit})` : ""}`;
  const text = (name, i) => (G.texts[name] ? G.texts[name].levels[G.texts[name].index[i]] : "");
  const basename = (i) => G.ids[i].slice(G.ids[i].lastIndexOf("/") + 1);
  const placeOf = new Map(G.ids.map((id, i) => [id, i]));
  const haystack = G.ids.map((id, i) => [id, text("category", i), text("subcategory", i)].join(" ").toLowerCase());

  function show(value) {
    if (Number.isNaN(value)) return "–";
    const size = Math.abs(value);
    if (Number.isInteger(value) && size < 1e9) return value.toLocaleString("en");
    if (size !== 0 && (size < 0.001 || size >= 1e6)) return value.toExponential(2);
    return size >= 100 ? value.toFixed(1) : size >= 10 ? value.toFixed(2) : value.toFixed(3);
  }

  // Sorted values of a column, its histogram between the 0.5th and 99.5th percentile, and where a value falls.
  const BINS = 30;
  function distribution(column) {
    if (column.distribution) return column.distribution;
    const sorted = column.values.filter((value) => !Number.isNaN(value)).sort();
    const end = (share) => sorted[Math.round(share * (sorted.length - 1))];
    const low = end(0.005), high = end(0.995);
    const counts = new Array(BINS).fill(0);
    const bin = (value) => (high > low ? Math.max(0, Math.min(BINS - 1, Math.floor(((value - low) / (high - low)) * BINS))) : BINS >> 1);
    for (const value of sorted) counts[bin(value)] += 1;
    const top = Math.max(...counts);
    const path = counts.map((count, k) => (count ? `M${k} 24v${(-Math.max(0.7, (22 * count) / top)).toFixed(1)}h.9V24z` : "")).join("");
    const before = (value, orEqual) => {
      let from = 0, to = sorted.length;
      while (from < to) {
        const middle = (from + to) >> 1;
        if (orEqual ? sorted[middle] <= value : sorted[middle] < value) from = middle + 1;
        else to = middle;
      }
      return from;
    };
    column.distribution = {
      n: sorted.length, low, high, path,
      x: (value) => (high > low ? Math.max(0.4, Math.min(BINS - 0.4, ((value - low) / (high - low)) * BINS)) : BINS / 2),
      percentile: (value) => (100 * (before(value, false) + before(value, true))) / (2 * sorted.length),
    };
    return column.distribution;
  }

  // ------------------------------------------------------------------------------------------- pieces

  function make(tag, properties, ...children) {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(properties || {})) {
      if (name in element) element[name] = value;
      else element.setAttribute(name, value);
    }
    element.append(...children.filter((child) => child !== null && child !== undefined));
    return element;
  }

  const encoded = (path) => path.split("/").map((part) => {
    try { return encodeURIComponent(part); } catch { return ""; } // a name that is no UTF-8 has no address
  }).join("/");
  const numbered = (row) => `${String(Math.floor(row / 1000)).padStart(3, "0")}/${String(row).padStart(6, "0")}`;
  function stored(kind, i, suffix) {
    const row = kind.rows ? kind.rows[i] : i;
    return row < 0 ? null : `gallery/${encoded(kind.folder)}/${numbered(row)}${suffix}`;
  }
  function original(i) {
    const id = G.ids[i], slash = id.lastIndexOf("/");
    const folder = G.originals[slash < 0 ? "" : id.slice(0, slash)];
    return folder === undefined ? null : encoded(folder) + "/" + encoded(basename(i));
  }

  // A square with the image, or with one model's reconstruction; a word where there is no picture. Where it is large, the
  // image's own file comes first: cut to its middle square it shows what the network saw, only sharper.
  function frame(i, side, { model = 0, large = false } = {}) {
    const box = make("span", { className: "frame" });
    const image = make("img", { alt: "", decoding: "async" });
    const pair = G.pairs[model] ? stored(G.pairs[model], i, ".jpg") : null;
    const sources = [[pair, side === "image" ? "left" : "right"], [side === "image" ? original(i) : null, "whole"]].filter(([address]) => address);
    if (large) sources.reverse();
    const next = () => {
      const source = sources.shift();
      if (source) [image.src, image.className] = source;
      else image.replaceWith(make("span", { className: "none", textContent: "no picture" }));
    };
    image.onerror = next;
    box.append(image);
    next();
    return box;
  }

  // ------------------------------------------------------------------------------------------- state

  const state = { query: "", sort: columns.has("memorability") ? "memorability" : "name", descending: columns.has("memorability"), category: "", split: "", show: "image", view: "grid" };
  const starts = { ...state };
  let order = [];

  function readHash() {
    const given = new URLSearchParams(location.hash.slice(1));
    for (const name of Object.keys(state)) {
      if (given.has(name)) state[name] = name === "descending" ? given.get(name) !== "false" : given.get(name);
    }
    if (!columns.has(state.sort)) state.sort = "name";
    return given.get("image");
  }
  function hashFor(image) {
    const given = new URLSearchParams();
    for (const [name, value] of Object.entries(state)) if (value !== starts[name]) given.set(name, value);
    if (image !== undefined) {
      try { given.set("image", G.ids[image]); } catch { /* no UTF-8: no address of its own */ }
    }
    return "#" + given.toString();
  }

  const COMPARE = {
    "<": (a, b) => a < b, ">": (a, b) => a > b, "<=": (a, b) => a <= b, ">=": (a, b) => a >= b,
    "=": (a, b) => a === b, ":": (a, b) => a === b,
  };
  function test(word) {
    const parts = /^([^<>=:]+)(<=|>=|<|>|=|:)(.+)$/.exec(word);
    if (parts) {
      const [, name, sign, wanted] = parts;
      if (name in G.texts) return (i) => text(name, i).toLowerCase() === wanted;
      const key = [...columns.keys()].find((one) => one.toLowerCase() === name);
      if (key && Number.isFinite(Number(wanted))) {
        const { values } = columns.get(key);
        return (i) => COMPARE[sign](values[i], Number(wanted));
      }
    }
    return (i) => haystack[i].includes(word);
  }

  function choose() {
    const tests = state.query.toLowerCase().split(/\s+/).filter(Boolean).map(test);
    if (state.category) tests.push((i) => text("category", i) === state.category);
    if (state.split) tests.push((i) => text("split", i) === state.split);
    order = [];
    for (let i = 0; i < N; i += 1) if (tests.every((one) => one(i))) order.push(i);
    if (state.sort !== "name") {
      const { values } = columns.get(state.sort);
      const sign = state.descending ? -1 : 1;
      order.sort((a, b) => {
        const x = values[a], y = values[b];
        if (Number.isNaN(x) || Number.isNaN(y)) return Number.isNaN(x) - Number.isNaN(y) || a - b; // the undefined last
        return sign * (x - y) || a - b;
      });
    } else if (state.descending) order.reverse();
    at("count").textContent = order.length === N ? `${N.toLocaleString("en")} images` : `${order.length.toLocaleString("en")} of ${N.toLocaleString("en")} images`;
    at("nothing").hidden = order.length > 0;
    at("direction").textContent = state.sort === "name" ? (state.descending ? "Z–A" : "A–Z") : state.descending ? "highest first" : "lowest first";
  }

  // ------------------------------------------------------------------------------------------- grid and table

  const results = at("results");
  const alive = new Map(); // place in the order -> element
  const TEXT_PX = 62, GAP_PX = 14, ROW_PX = 53, BEYOND_PX = 400;
  let layout = null;

  function valueLine(i) {
    const line = make("span", { className: "value" });
    const own = state.sort === "name" ? (columns.has("memorability") ? "memorability" : null) : state.sort;
    if (own) line.append(make("b", { textContent: show(columns.get(own).values[i]) }), " " + columns.get(own).name);
    return line;
  }

  function tile(place) {
    const i = order[place];
    const own = columns.get(state.sort);
    const said = own ? `, ${own.name} ${show(own.values[i])}` : "";
    const element = make("a", { className: "tile", href: hashFor(i), "aria-label": G.ids[i] + said, title: G.ids[i] },
      frame(i, state.show), make("span", { className: "name", textContent: basename(i) }), valueLine(i));
    element.dataset.place = place;
    element.style.width = layout.side + "px";
    element.firstChild.style.height = layout.side + "px";
    element.style.left = (place % layout.across) * (layout.side + GAP_PX) + "px";
    element.style.top = Math.floor(place / layout.across) * layout.row + "px";
    return element;
  }

  function measure() {
    const width = results.clientWidth;
    const across = Math.max(2, Math.floor((width + GAP_PX) / (150 + GAP_PX)));
    const side = Math.floor((width - (across - 1) * GAP_PX) / across);
    layout = { across, side, row: side + TEXT_PX };
  }

  function inSight(height, per) {
    const top = window.scrollY - results.offsetTop - BEYOND_PX;
    const first = Math.max(0, Math.floor(top / height)) * per;
    const last = Math.min(order.length, (Math.ceil((top + window.innerHeight + 2 * BEYOND_PX) / height) + 1) * per);
    return [Math.min(first, order.length), last];
  }

  function drawGrid() {
    const [first, last] = inSight(layout.row, layout.across);
    for (const [place, element] of alive) {
      if ((place < first || place >= last) && element !== document.activeElement) { element.remove(); alive.delete(place); }
    }
    for (let place = first; place < last; place += 1) {
      if (alive.has(place)) continue;
      const element = tile(place);
      alive.set(place, element);
      // In the order that people see, for those who go through with the tab key.
      const next = [...alive.keys()].filter((one) => one > place).sort((a, b) => a - b)[0];
      results.insertBefore(element, next === undefined ? null : alive.get(next));
    }
  }

  let body = null;
  function startTable() {
    const head = make("tr");
    for (const [key, label, title] of [["name", "image", "by name"], ...G.columns.map((c) => [c.key, c.key.replaceAll("_", " "), about(c)])]) {
      const button = make("button", { type: "button", textContent: label, title });
      button.onclick = () => {
        state.descending = state.sort === key ? !state.descending : key !== "name";
        state.sort = key;
        changed();
      };
      const sorted = state.sort === key ? (state.descending ? "descending" : "ascending") : "none";
      head.append(make("th", { scope: "col", "aria-sort": sorted }, button));
    }
    body = make("tbody");
    const box = make("div", { className: "tablebox", tabIndex: 0, "aria-label": "Scores of the images" });
    const left = results.querySelector(".tablebox") ? results.querySelector(".tablebox").scrollLeft : 0;
    box.append(make("table", {}, make("thead", {}, head), body));
    results.replaceChildren(box);
    box.scrollLeft = left;
  }
  function drawTable() {
    const [first, last] = inSight(ROW_PX, 1);
    const gap = (count) => {
      const cell = make("td", { colSpan: G.columns.length + 1 });
      cell.style.height = count * ROW_PX + "px";
      return make("tr", { className: "gap" }, cell);
    };
    const rows = order.slice(first, last).map((i, k) => {
      const link = make("a", { href: hashFor(i), title: G.ids[i] }, frame(i, state.show), make("span", { className: "text", textContent: basename(i) }));
      link.dataset.place = first + k;
      return make("tr", {}, make("td", {}, link), ...G.columns.map((column) => make("td", { textContent: show(column.values[i]) })));
    });
    body.replaceChildren(gap(first), ...rows, gap(order.length - last));
    body.dataset.first = first;
  }

  let waiting = false;
  function drawSoon() {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => {
      waiting = false;
      if (state.view === "grid") drawGrid();
      else if (Math.abs(inSight(ROW_PX, 1)[0] - Number(body.dataset.first)) > 5) drawTable();
    });
  }
  function drawAnew() {
    alive.clear();
    if (state.view === "grid") {
      results.replaceChildren();
      measure();
      results.style.height = Math.max(0, Math.ceil(order.length / layout.across) * layout.row) + "px";
      drawGrid();
    } else {
      results.style.height = "";
      startTable();
      drawTable();
    }
  }

  // ------------------------------------------------------------------------------------------- one image

  const panel = at("panel");
  let opened = -1;

  function strip(column, value) {
    const spread = distribution(column);
    const space = "http://www.w3.org/2000/svg";
    const svg = document.createElementNS(space, "svg");
    svg.setAttribute("viewBox", `0 0 ${BINS} 24`);
    svg.setAttribute("preserveAspectRatio", "none");
    svg.setAttribute("role", "img");
    svg.setAttribute("aria-label", `higher than ${Math.round(spread.percentile(value))} % of ${spread.n} images`);
    const path = document.createElementNS(space, "path");
    path.setAttribute("d", spread.path);
    const line = document.createElementNS(space, "line");
    for (const [name, x] of [["x1", spread.x(value)], ["x2", spread.x(value)], ["y1", 0], ["y2", 24]]) line.setAttribute(name, x);
    line.setAttribute("vector-effect", "non-scaling-stroke");
    svg.append(path, line);
    return svg;
  }

  function scoreLine(column, i) {
    const value = column.values[i];
    const line = make("div", { className: "score" },
      make("span", { className: "label", textContent: column.name, title: about(column) }), make("span", { className: "number", textContent: show(value) }));
    if (!Number.isNaN(value)) {
      const spread = distribution(column);
      line.append(strip(column, value), make("span", { className: "place", textContent: `${Math.round(spread.percentile(value))} %`, title: `higher than ${spread.percentile(value).toFixed(1)} % of ${spread.n} images` }));
    }
    return line;
  }

  function figureOf(box, title, about) {
    return make("figure", {}, box, make("figcaption", {}, make("b", { textContent: title }), about));
  }
  function linkTo(i, ...content) {
    return make("a", { href: hashFor(i), title: G.ids[i], "aria-label": G.ids[i] }, ...content);
  }

  function pictures(i) {
    const box = make("div", { className: "pictures" });
    const seen = frame(i, "image", { large: true });
    seen.querySelector("img")?.setAttribute("alt", `The image ${G.ids[i]}`);
    const file = original(i);
    box.append(figureOf(seen, "Image", file ? make("a", { href: file, target: "_blank", textContent: "the file itself, whole" }) : "as the network sees it"));
    const several = G.pairs.length > 1;
    G.pairs.forEach((pair, k) => {
      if (stored(pair, i, ".jpg") === null) return;
      const remade = frame(i, "reconstruction", { model: k });
      remade.querySelector("img")?.setAttribute("alt", `Reconstruction of ${G.ids[i]} by ${pair.model}`);
      box.append(figureOf(remade, "Reconstruction", several ? pair.model : "what the autoencoder made of it"));
    });
    for (const map of G.maps) {
      const address = stored(map, i, ".png");
      if (address === null) continue;
      const under = frame(i, "image", { large: true });
      under.classList.add("dimmed");
      const over = make("img", { className: "map", src: address, alt: `Attribution map of ${G.ids[i]}` });
      over.onerror = () => over.remove();
      under.append(over);
      const slider = make("input", { type: "range", min: 0, max: 100, value: 85, "aria-label": "Strength of the overlay" });
      over.style.opacity = 0.85;
      slider.oninput = () => { over.style.opacity = slider.value / 100; under.classList.toggle("dimmed", slider.value > 0); };
      const figure = figureOf(under, "Attribution", `red raises the predicted score, blue lowers it${G.maps.length > 1 ? `; ${map.model}` : ""}`);
      figure.append(slider);
      box.append(figure);
    }
    for (const [model, nearest] of Object.entries(G.nearest)) {
      const other = nearest[i];
      if (other < 0) continue;
      const said = `${basename(other)}${Object.keys(G.nearest).length > 1 ? `; by ${model}` : ""}`;
      box.append(figureOf(linkTo(other, frame(other, "image", { large: true })), "Nearest neighbour", said));
    }
    return box;
  }

  function nearestTo(i) {
    const [first] = Object.values(G.nearest);
    if (!first) return null;
    const others = [];
    for (let k = 0; k < N; k += 1) if (first[k] === i) others.push(k);
    if (!others.length) return null;
    const shown = others.slice(0, 16).map((k) => linkTo(k, frame(k, "image")));
    return make("section", {}, make("h3", { textContent: `Nearest neighbour of ${others.length === 1 ? "one image" : `${others.length} images`}` }), make("div", { className: "others" }, ...shown));
  }

  function fill(i) {
    const place = order.indexOf(i);
    const to = (step, name, sign) => {
      const button = make("button", { type: "button", textContent: sign, title: name, "aria-label": name, disabled: place < 0 || !(place + step in order) });
      button.onclick = () => open(order[place + step]);
      return button;
    };
    const close = make("button", { type: "button", textContent: "✕", title: "Close (Esc)", "aria-label": "Close" });
    close.onclick = () => panel.close();
    const head = make("div", { className: "panel-head" }, make("h2", { id: "panel-title", textContent: G.ids[i], title: G.ids[i] }),
      to(-1, "Previous image (left arrow)", "←"), to(1, "Next image (right arrow)", "→"), close);
    const facts = make("div", { className: "facts" });
    for (const name of Object.keys(G.texts)) if (text(name, i)) facts.append(make("span", {}, name + " ", make("b", { textContent: text(name, i) })));
    const content = make("div", { className: "panel-body" }, facts, pictures(i), nearestTo(i));
    content.append(make("p", { className: "soft", textContent: "Below: each score, all images as a histogram (99 % of them across its width), this one as the line, and the share of images below it." }));
    const groups = new Map();
    for (const column of G.columns) {
      if (Number.isNaN(column.values[i])) continue;
      if (!groups.has(column.group)) groups.set(column.group, make("div", { className: "scores" }));
      groups.get(column.group).append(scoreLine(column, i));
    }
    for (const [name, box] of groups) content.append(make("h3", { textContent: name }), box);
    panel.replaceChildren(head, content);
    panel.scrollTop = 0;
  }

  function open(i) {
    opened = i;
    fill(i);
    if (!panel.open) panel.showModal();
    panel.focus({ preventScroll: true }); // what had it is gone, and keys must still arrive here
    history.replaceState(null, "", hashFor(i));
  }
  panel.addEventListener("close", () => {
    history.replaceState(null, "", hashFor());
    const place = order.indexOf(opened);
    opened = -1;
    if (place >= 0) goTo(place);
  });
  panel.addEventListener("click", (event) => { if (event.target === panel) panel.close(); });
  panel.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!step || event.target.type === "range") return;
    const place = order.indexOf(opened);
    if (place >= 0 && place + step in order) { event.preventDefault(); open(order[place + step]); }
  });

  // ------------------------------------------------------------------------------------------- what people do

  function goTo(place) {
    if (state.view !== "grid") return;
    const top = results.offsetTop + Math.floor(place / layout.across) * layout.row;
    const tools = document.querySelector(".tools").offsetHeight;
    if (top < window.scrollY + tools) window.scrollTo(0, top - tools - 8);
    else if (top + layout.row > window.scrollY + window.innerHeight) window.scrollTo(0, top + layout.row - window.innerHeight);
    drawGrid();
    alive.get(place)?.focus({ preventScroll: true });
  }

  results.addEventListener("click", (event) => {
    const link = event.target.closest("a[data-place]");
    if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    open(order[Number(link.dataset.place)]);
  });
  panel.addEventListener("click", (event) => {
    const link = event.target.closest('a[href^="#"]');
    if (!link) return;
    event.preventDefault();
    open(placeOf.get(link.title));
  });
  results.addEventListener("keydown", (event) => {
    const link = event.target.closest("a.tile");
    if (!link || !layout) return;
    const step = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -layout.across, ArrowDown: layout.across }[event.key];
    const place = event.key === "Home" ? 0 : event.key === "End" ? order.length - 1 : step ? Number(link.dataset.place) + step : -1;
    if (!(place in order)) return;
    event.preventDefault();
    goTo(place);
  });

  function changed() {
    choose();
    at("sort").value = state.sort;
    const top = results.offsetTop - document.querySelector(".tools").offsetHeight - 8;
    if (window.scrollY > top) window.scrollTo(0, top); // the first of the new order, not the middle of it
    drawAnew();
    history.replaceState(null, "", hashFor());
  }

  function options(select, pairs) {
    select.replaceChildren(...pairs.map(([value, label]) => make("option", { value, textContent: label })));
  }
  function start() {
    const image = readHash();
    const sort = at("sort");
    options(sort, [["name", "name"]]);
    const groups = new Map();
    for (const column of G.columns) {
      if (!groups.has(column.group)) groups.set(column.group, make("optgroup", { label: column.group }));
      groups.get(column.group).append(make("option", { value: column.key, textContent: column.name, title: about(column) }));
    }
    sort.append(...groups.values());
    for (const name of ["category", "split"]) {
      if (!G.texts[name] || G.texts[name].levels.length < 2) continue;
      at(name + "-label").hidden = false;
      options(at(name), [["", "all"], ...G.texts[name].levels.filter(Boolean).map((level) => [level, level])]);
    }
    at("show-label").hidden = G.pairs.length === 0;
    for (const name of ["query", "sort", "category", "split", "show", "view"]) {
      at(name).value = state[name];
      at(name).addEventListener(name === "query" ? "input" : "change", () => { state[name] = at(name).value; changed(); });
    }
    at("direction").onclick = () => { state.descending = !state.descending; changed(); };
    at("clear").onclick = () => {
      for (const name of ["query", "category", "split"]) { state[name] = ""; at(name).value = ""; }
      changed();
    };
    window.addEventListener("scroll", drawSoon, { passive: true });
    let width = results.clientWidth;
    new ResizeObserver(() => {
      if (results.clientWidth !== width) { width = results.clientWidth; drawAnew(); } else drawSoon();
    }).observe(document.body);
    window.addEventListener("hashchange", () => {
      const named = readHash();
      if (named && placeOf.has(named)) open(placeOf.get(named));
    });
    choose();
    drawAnew();
    if (image && placeOf.has(image)) open(placeOf.get(image));
  }
  start();
})();
