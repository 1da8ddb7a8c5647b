"use strict";

const SVG = "http://www.w3.org/2000/svg";
const DASHES = ["", "7 3", "2 3", "9 3 2 3", "4 2", "1 2"];
const HEIGHT = 260, LEFT = 58, RIGHT = 28, TOP = 10, BOTTOM = 36;

function make(tag, parent, attributes = {}, text = "") {
  const svg = parent.namespaceURI === SVG || tag === "svg";
  const element = svg ? document.createElementNS(SVG, tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  if (text) element.textContent = text;
  parent.append(element);
  return element;
}

function format(number) {
  if (number === null || !Number.isFinite(number)) return "none";
  const size = Math.abs(number);
  if (size !== 0 && (size < 1e-3 || size >= 1e6)) return number.toExponential(2).replace(/\.?0+e/, "e");
  return (number || 0).toLocaleString("en", { maximumSignificantDigits: 4 });
}

// ---- curves: a chart keeps what a person chose (zoom, scale, hidden lines) when its numbers change

const ticks = {
  linear(low, high, count) {
    const raw = (high - low) / count, power = 10 ** Math.floor(Math.log10(raw));
    const step = [1, 2, 5, 10].map((n) => n * power).find((n) => n >= raw) || raw;
    const found = [];
    for (let n = Math.ceil(low / step - 1e-9); n * step <= high + 1e-9 * step; n++) found.push(n * step);
    return found;
  },
  log(low, high, count) {
    const found = [], first = Math.floor(low), last = Math.ceil(high), wide = last - first;
    const every = Math.max(1, Math.ceil(wide / count)), parts = wide <= 1 ? [1, 2, 3, 4, 5, 6, 7, 8, 9] : wide <= 3 ? [1, 2, 5] : [1];
    for (let n = first; n <= last; n += every)
      for (const part of parts) found.push(n + Math.log10(part));
    return found.filter((place) => place >= low - 1e-9 && place <= high + 1e-9);
  },
};

class Chart {
  constructor(parent, { title, x, log = false, scales = false }) {
    Object.assign(this, { x, log, hidden: new Set(), zoom: null, series: [] });
    this.section = make("section", parent, { class: "chart" });
    make("h2", this.section, {}, title);
    this.svg = make("svg", this.section, { height: HEIGHT, role: "img", tabindex: "0", "aria-label": title });
    this.said = make("p", this.section, { "aria-live": "polite" });
    this.bar = make("div", this.section, { class: "bar" });
    const tools = make("div", this.section, { class: "bar tools" });
    if (scales) {
      this.other = make("button", tools, { type: "button" });
      this.other.onclick = () => { this.log = !this.log; this.draw(); };
    }
    this.whole = make("button", tools, { type: "button" }, "show the whole");
    this.whole.onclick = () => this.show(null);
    this.listen();
    new ResizeObserver(() => this.draw()).observe(this.section);
  }

  // series: [{name, x, y, dots, low, high, flat}], a band where low and high are, a level where flat is
  update(series) {
    this.series = series;
    this.bar.replaceChildren();
    series.forEach((one, number) => this.legend(one, number));
    this.draw();
  }

  legend(one, number) {
    const shown = !this.hidden.has(one.name);
    const button = make("button", this.bar, { type: "button", "aria-pressed": shown, style: this.colour(number) });
    const sample = make("svg", button, { "aria-hidden": "true", viewBox: "0 0 26 10" });
    make("line", sample, { class: "line", x1: 0, y1: 5, x2: 26, y2: 5, "stroke-dasharray": this.dash(number) });
    button.append(one.name);
    button.onclick = () => {
      if (!this.hidden.delete(one.name)) this.hidden.add(one.name);
      this.update(this.series);
    };
  }

  colour(number) { return `--c: var(--s${number % 6})`; }
  dash(number) { return DASHES[Math.floor(number / 6 + number) % 6]; }
  show(zoom) { this.zoom = zoom; this.draw(); }

  // the range of x, and of y where x is in it
  spans() {
    const seen = this.series.filter((one) => !this.hidden.has(one.name));
    const xs = seen.flatMap((one) => one.flat === undefined ? one.x : []);
    if (!xs.length) return null;
    let [left, right] = this.zoom || [Math.min(...xs), Math.max(...xs)];
    if (right <= left) right = left + 1;
    const good = (y) => y !== null && Number.isFinite(y) && (!this.log || y > 0);
    let ys = [];
    for (const one of seen) {
      if (one.flat !== undefined) { ys.push(one.flat); continue; }
      one.x.forEach((x, k) => {
        if (x < left || x > right) return;
        ys.push(...(one.y ? [one.y[k]] : [one.low[k], one.high[k]]));
      });
    }
    ys = ys.filter(good).map((y) => this.place(y));
    let low = ys.length ? Math.min(...ys) : 0, high = ys.length ? Math.max(...ys) : 1;
    if (high - low < 1e-12) { low -= 0.5; high += 0.5; }
    const room = 0.04 * (high - low);
    return { left, right, low: low - room, high: high + room };
  }

  place(y) { return this.log ? Math.log10(y) : y; }

  draw() {
    const { svg } = this, width = svg.clientWidth || 300, spans = this.spans();
    svg.replaceChildren();
    svg.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
    this.whole.hidden = this.zoom === null;
    if (this.other) this.other.textContent = this.log ? "linear scale" : "logarithmic scale";
    if (!spans) return;
    const { left, right, low, high } = spans;
    this.toX = (x) => LEFT + (x - left) / (right - left) * (width - LEFT - RIGHT);
    this.fromX = (px) => left + (px - LEFT) / (width - LEFT - RIGHT) * (right - left);
    this.span = [left, right];
    const toY = (y) => HEIGHT - BOTTOM - (this.place(y) - low) / (high - low) * (HEIGHT - TOP - BOTTOM);
    this.axes(spans, width);
    const id = `clip${Chart.count++}`;
    make("rect", make("clipPath", make("defs", svg), { id }),
      { x: LEFT, y: TOP - 4, width: Math.max(0, width - LEFT - RIGHT), height: HEIGHT - TOP - BOTTOM + 8 });
    const inside = make("g", svg, { "clip-path": `url(#${id})` });
    this.series.forEach((one, number) => {
      if (!this.hidden.has(one.name)) this.trace(make("g", inside, { style: this.colour(number) }), one, number, toY, width);
    });
    this.mark = make("rect", svg, { class: "mark", y: TOP, height: HEIGHT - TOP - BOTTOM, width: 0, x: 0 });
  }

  axes({ left, right, low, high }, width) {
    for (const place of ticks[this.log ? "log" : "linear"](low, high, this.log ? 7 : 5)) {
      const y = HEIGHT - BOTTOM - (place - low) / (high - low) * (HEIGHT - TOP - BOTTOM);
      make("line", this.svg, { class: "grid", x1: LEFT, x2: width - RIGHT, y1: y, y2: y });
      make("text", this.svg, { x: LEFT - 6, y: y + 4, "text-anchor": "end" }, format(this.log ? 10 ** place : place));
    }
    for (const x of ticks.linear(left, right, width < 500 ? 4 : 7)) {
      make("text", this.svg, { x: this.toX(x), y: HEIGHT - BOTTOM + 16, "text-anchor": "middle" }, format(x));
    }
    make("text", this.svg, { x: (LEFT + width - RIGHT) / 2, y: HEIGHT - 4, "text-anchor": "middle" }, this.x);
  }

  trace(group, one, number, toY, width) {
    const ok = (y) => y !== null && (!this.log || y > 0), dash = this.dash(number);
    if (one.flat !== undefined) {
      make("line", group, { class: "line", x1: LEFT, x2: width - RIGHT, y1: toY(one.flat), y2: toY(one.flat), "stroke-dasharray": dash });
      return;
    }
    if (one.low) {
      const known = one.x.map((x, k) => k).filter((k) => one.low[k] !== null);
      const points = [...known.map((k) => [one.x[k], one.high[k]]), ...known.reverse().map((k) => [one.x[k], one.low[k]])];
      const path = points.map(([x, y]) => `${this.toX(x).toFixed(1)},${toY(y).toFixed(1)}`).join(" ");
      make("polygon", group, { class: "band", points: path });
      make("polygon", group, { class: "line", points: path, "stroke-dasharray": dash });
      return;
    }
    let path = "", pen = "M";
    one.x.forEach((x, k) => {
      if (!ok(one.y[k])) { pen = "M"; return; }
      path += `${pen}${this.toX(x).toFixed(1)} ${toY(one.y[k]).toFixed(1)}`;
      pen = "L";
      if (one.dots) make("circle", group, { class: "dot", cx: this.toX(x), cy: toY(one.y[k]), r: 3 });
    });
    if (!one.loose) make("path", group, { class: "line", d: path, "stroke-dasharray": dash });
  }

  listen() {
    const { svg } = this;
    let from = null;
    const at = (event) => event.clientX - svg.getBoundingClientRect().left;
    svg.onpointerdown = (event) => { if (this.toX) from = at(event); };
    svg.onpointermove = (event) => {
      if (!this.toX) return;
      this.tell(this.fromX(at(event)));
      if (from === null) return;
      this.mark.setAttribute("x", Math.min(from, at(event)));
      this.mark.setAttribute("width", Math.abs(from - at(event)));
    };
    svg.onpointerup = (event) => {
      if (from === null) return;
      const [a, b] = [this.fromX(from), this.fromX(at(event))].sort((m, n) => m - n);
      if (Math.abs(from - at(event)) > 8) this.show([Math.max(a, this.span[0]), Math.min(b, this.span[1])]);
      from = null;
    };
    svg.onpointercancel = () => { from = null; if (this.mark) this.mark.setAttribute("width", 0); };
    svg.ondblclick = () => this.show(null);
    svg.onkeydown = (event) => {
      if (!this.span) return;
      const [left, right] = this.span, middle = (left + right) / 2, wide = right - left;
      const moves = {
        "+": [middle - wide / 4, middle + wide / 4], "-": [middle - wide, middle + wide], Escape: null,
        ArrowLeft: [left - wide / 4, right - wide / 4], ArrowRight: [left + wide / 4, right + wide / 4],
      };
      if (!(event.key in moves)) return;
      event.preventDefault();
      this.show(moves[event.key]);
    };
  }

  // the numbers nearest to a place, in words
  tell(x) {
    const found = [];
    for (const one of this.series) {
      if (this.hidden.has(one.name) || one.flat !== undefined || !one.x.length || one.loose) continue;
      let near = 0;
      one.x.forEach((other, k) => { if (Math.abs(other - x) < Math.abs(one.x[near] - x)) near = k; });
      const value = one.low ? `${format(one.low[near])} to ${format(one.high[near])}` : format(one.y[near]);
      found.push(`${one.name} ${value} (${format(one.x[near])})`);
    }
    this.said.textContent = found.join(", ");
  }
}
Chart.count = 0;

// ---- planes: solution, reference and error as colours

const COLOURS = {
  u: ["#440154", "#472d7b", "#3b528b", "#2c728e", "#21918c", "#28ae80", "#5ec962", "#addc30", "#fde725"],
  error: ["#053061", "#2166ac", "#4393c3", "#92c5de", "#f7f7f7", "#f4a582", "#d6604d", "#b2182b", "#67001f"],
};
const RGB = Object.fromEntries(Object.entries(COLOURS).map(([name, list]) =>
  [name, list.map((hex) => [1, 3, 5].map((k) => parseInt(hex.slice(k, k + 2), 16)))]));

function colour(kind, share) {
  const list = RGB[kind], place = Math.min(Math.max(share, 0), 1) * (list.length - 1), k = Math.min(Math.floor(place), list.length - 2);
  return list[k].map((from, c) => from + (list[k + 1][c] - from) * (place - k));
}

function unpack(text) {
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  return Array.from({ length: bytes.length / 2 }, (_, k) => bytes[2 * k] + 256 * bytes[2 * k + 1]);
}

const share = (level) => level === 65535 ? null : level / 65534;

class Planes {
  constructor(parent, title) {
    this.section = make("section", parent);
    make("h2", this.section, {}, title);
    this.slider = make("div", this.section);
    this.grid = make("div", this.section, { class: "planes" });
    this.note = make("figcaption", this.section, { "aria-live": "polite" });
    this.panels = ["solution", "reference", "error"].map((name) => {
      const figure = make("figure", this.grid), kind = name === "error" ? "error" : "u";
      make("div", figure, {}, name);
      const plane = make("canvas", figure, { class: "plane", role: "img", "aria-label": name });
      const scale = make("canvas", figure, { class: "scale", width: 128, height: 1, "aria-hidden": "true" });
      const pen = scale.getContext("2d");
      for (let k = 0; k < 128; k++) { pen.fillStyle = `rgb(${colour(kind, k / 127).map(Math.round)})`; pen.fillRect(k, 0, 1, 1); }
      const panel = { name, kind, plane, ends: make("div", figure, { class: "ends" }) };
      plane.onpointermove = (event) => this.tell(event, plane);
      return panel;
    });
    this.at = null;
  }

  update(field) {
    this.field = field;
    if (this.at === null || this.at >= field.at.length) this.at = Math.floor(field.at.length / 2);
    this.levels = field.slices.map((slice) => ({ solution: unpack(slice.u), reference: unpack(slice.reference), error: unpack(slice.error) }));
    if (field.along && !this.range && field.at.length > 1) this.slide();
    this.draw();
  }

  slide() {
    const label = make("label", this.slider, {}, `${this.field.along} `);
    this.range = make("input", label, { type: "range", min: 0, max: this.field.at.length - 1, step: 1, value: this.at });
    this.range.oninput = () => { this.at = Number(this.range.value); this.draw(); };
  }

  draw() {
    const { field } = this, { side } = field, [x, y] = field.axes;
    for (const { name, kind, plane, ends } of this.panels) {
      plane.width = plane.height = side;
      const pen = plane.getContext("2d"), image = pen.createImageData(side, side), levels = this.levels[this.at][name];
      for (let i = 0; i < side; i++) {
        for (let j = 0; j < side; j++) {
          const part = share(levels[i * side + j]), k = 4 * ((side - 1 - j) * side + i);
          image.data.set(part === null ? [0, 0, 0, 0] : [...colour(kind, part), 255], k);
        }
      }
      pen.putImageData(image, 0, 0);
      ends.replaceChildren();
      for (const end of field.spans[kind]) make("span", ends, {}, format(end));
    }
    const place = field.along ? `${field.along} = ${format(field.at[this.at])}, ` : "";
    const rest = field.middle ? ", the other coordinates in their middle" : "";
    this.plain = `${place}relative L2 error here ${format(field.relative_l2[this.at])}; ` +
      `${x[0]} from ${format(x[1])} to ${format(x[2])} to the right, ${y[0]} from ${format(y[1])} to ${format(y[2])} upwards${rest}.`;
    this.note.textContent = this.plain;
  }

  tell(event, plane) {
    const box = plane.getBoundingClientRect(), { side, axes, spans } = this.field;
    const cell = (share) => Math.min(Math.max(Math.floor(share * side), 0), side - 1);
    const i = cell((event.clientX - box.left) / box.width), j = side - 1 - cell((event.clientY - box.top) / box.height);
    const place = [i, j].map((k, n) => `${axes[n][0]} ${format(axes[n][1] + (axes[n][2] - axes[n][1]) * k / (side - 1))}`);
    const values = this.panels.map(({ name, kind }) => {
      const part = share(this.levels[this.at][name][i * side + j]), [low, high] = spans[kind];
      return `${name} ${format(part === null ? null : low + part * (high - low))}`;
    });
    this.note.textContent = `${place.join(", ")}: ${values.join(", ")}`;
  }
}

// ---- the page

const views = {};
const charts = document.getElementById("charts"), fields = document.getElementById("fields"), ranges = document.getElementById("ranges");

function view(name, build) {
  return views[name] ||= build();
}

function chart(name, parent, options) {
  return view(name, () => new Chart(parent, { title: name, ...options }));
}

function render(data) {
  if (data.facts.length) {
    const facts = document.getElementById("facts");
    facts.replaceChildren();
    for (const [label, value] of data.facts) {
      const pair = make("div", facts);
      make("dt", pair, {}, label);
      make("dd", pair, {}, value);
    }
  }
  if (data.runs.length === 1) one(data.runs[0]);
  else many(data.runs);
}

function one(run) {
  const floors = Object.entries(run.floors).map(([name, flat]) => ({ name: `best ${name}`, flat }));
  const lines = (columns) => Object.entries(columns).map(([name, y]) => ({ name, x: run.step, y }));
  chart("Loss", charts, { x: "step", log: true, scales: true }).update(lines(run.loss));
  const error = { name: "relative L2 error", x: run.error.step, y: run.error.relative_l2, dots: true };
  chart("Error", charts, { x: "step", log: true, scales: true }).update([error, ...floors]);
  if (Object.keys(run.unknowns).length) {
    const truth = Object.entries(run.true).map(([name, flat]) => ({ name: `true ${name}`, flat }));
    chart("Unknowns", charts, { x: "step", scales: true }).update([...lines(run.unknowns), ...truth]);
  }
  solution(run, "Solution, reference and error");
  if (run.field.scatter) {
    const { u, reference } = run.field.scatter, ends = [Math.min(...reference), Math.max(...reference)];
    chart("Solution against reference at test points", charts, { x: "reference" }).update([
      { name: "test points", x: reference, y: u, dots: true, loose: true }, { name: "exact", x: ends, y: ends },
    ]);
  }
  if (run.ranges) widths(run.ranges);
}

function many(runs) {
  const lines = (x) => runs.map((run) => ({ name: run.name, x: run.error[x], y: run.error.relative_l2, dots: true }));
  chart("Error by step", charts, { x: "step", log: true, scales: true }).update(lines("step"));
  chart("Error by second", charts, { x: "seconds", log: true, scales: true }).update(lines("seconds"));
  chart("Loss", charts, { x: "step", log: true, scales: true }).update(
    runs.map((run) => ({ name: run.name, x: run.step, y: run.loss.loss })));
  for (const run of runs) solution(run, `${run.name}: ${run.title}`);
}

function solution(run, title) {
  const { field } = run;
  if (field.axes.length === 2) {
    view(title, () => new Planes(fields, title)).update(field);
    return;
  }
  const [[name, low, high]] = field.axes, { side, slices: [slice], spans: { u: [bottom, top] } } = field;
  const x = Array.from({ length: side }, (_, k) => low + (high - low) * k / (side - 1));
  const y = (text) => unpack(text).map(share).map((part) => part === null ? null : bottom + part * (top - bottom));
  chart(title, charts, { x: name }).update([{ name: "solution", x, y: y(slice.u) }, { name: "reference", x, y: y(slice.reference) }]);
}

function widths({ step, tensors }) {
  const last = step.length - 1;
  const grown = tensors.filter((one) => one.saturations[last] > 0);
  const saturated = chart("Saturations: steps repeated for a sum that grew too large, so far", ranges, { x: "step" });
  saturated.section.hidden = !grown.length;
  if (grown.length) saturated.update(grown.map((one) => ({ name: one.name, x: step, y: one.saturations })));
  const bands = view("bands", () => {
    const made = new Chart(ranges, { title: "Exponents of blocks, smallest to largest, by tensor", x: "step" });
    const label = make("label", made.section, {}, "tensor ");
    made.choice = make("select", label);
    for (const { name } of tensors) make("option", made.choice, {}, name);
    made.choice.onchange = () => made.refresh();
    return made;
  });
  bands.refresh = () => {
    const one = tensors.find(({ name }) => name === bands.choice.value);
    const band = (name, pairs) => ({ name, x: step, low: pairs.map((pair) => pair && pair[0]), high: pairs.map((pair) => pair && pair[1]) });
    bands.update([band("weights", one.weights), band("gradients", one.gradients), { name: "sums of gradients", x: step, y: one.accumulator }]);
  };
  bands.refresh();
  const text = (pair) => pair ? `${pair[0]} to ${pair[1]}` : "zero";
  const table = view("widths", () => {
    const section = make("section", ranges);
    make("h2", section, {}, "Exponents and saturations at the last evaluation");
    return make("table", make("div", section, { class: "table", tabindex: "0" }));
  });
  table.replaceChildren();
  const head = make("tr", make("thead", table)), body = make("tbody", table);
  for (const name of ["tensor", "weights", "gradients", "sums", "saturations"]) make("th", head, { scope: "col" }, name);
  for (const one of tensors) {
    const row = make("tr", body);
    make("th", row, { scope: "row" }, one.name);
    for (const value of [text(one.weights[last]), text(one.gradients[last]), one.accumulator[last], one.saturations[last]])
      make("td", row, {}, String(value));
  }
}

// ---- a run that goes on

async function follow(data) {
  const status = document.getElementById("status");
  while (data.live) {
    status.textContent = "· training, live";
    await new Promise((resolve) => setTimeout(resolve, 1000));
    try {
      const answer = await fetch(`data.json?since=${data.version}`);
      if (answer.status === 200) render(data = await answer.json());
    } catch {
      status.textContent = "· training is no longer watched; this is its last state";
      return;
    }
  }
  status.textContent = "· training has ended";
}

const data = JSON.parse(document.getElementById("data").textContent);
render(data);
if (data.live) follow(data);
