// Figures to drag: sliders, axes, lines and a readout in place of each <div class="kx-play" data-play="name">.
// A figure is kexuePlay(name, { title, controls, compute, show }): compute(values) is pure numbers (the tests compare it with Python),
// show(values, result) says what to draw: { panels, text }. Nothing moves by itself, and nothing is fetched.
(() => {
  const SVG = "http://www.w3.org/2000/svg";
  const HEIGHT = 270;
  const INKS = ["kx-c0", "kx-c1", "kx-c2", "kx-c3", "kx-c4", "kx-c5"]; // blue, orange, green, purple, grey, the text's own
  const INSIDE = { left: 54, right: 22, top: 26, bottom: 42 };
  const plays = (window.kexuePlays = {});
  let unique = 0;

  /** A number for readers: thousands with commas, otherwise `digits` significant ones. */
  const number = (x, digits = 3) => {
    if (!Number.isFinite(x)) return Number.isNaN(x) ? "not a number" : x > 0 ? "∞" : "−∞";
    const size = Math.abs(x);
    if (size !== 0 && (size < 1e-3 || size >= 1e7)) {
      const [mantissa, power] = x.toExponential(digits - 1).split("e");
      return `${mantissa === "1" ? "" : `${mantissa.replace("-", "−")}·`}10${[...String(Number(power))].map((c) => "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"["-0123456789".indexOf(c)]).join("")}`;
    }
    const decimals = Math.max(0, digits - 1 - Math.floor(Math.log10(size || 1)));
    return x.toLocaleString("en", { maximumFractionDigits: decimals }).replace("-", "−");
  };

  /** A slider: `log` steps in powers of ten (`step` counts decades), `whole` rounds. */
  const slider = (name, label, min, max, value, { log = false, step, whole = false, unit = "" } = {}) => ({
    name, label, min, max, value, log, whole, unit, step: step ?? (log ? 0.02 : (max - min) / 100),
  });
  const choice = (name, label, options, value) => ({ name, label, options, value });

  const element = (tag, attributes = {}, ...children) => {
    const made = document.createElement(tag);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    made.append(...children);
    return made;
  };
  const shape = (parent, tag, attributes, text) => {
    const made = document.createElementNS(SVG, tag);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    if (text !== undefined) made.textContent = text;
    parent.append(made);
    return made;
  };

  /** Where the marks of an axis stand, and what they say. */
  const ticks = ({ min, max, log, marks }, room) => {
    if (marks) return marks.map((m) => (Array.isArray(m) ? m : [m, number(m)]));
    const wanted = Math.max(2, Math.floor(room));
    if (log) {
      const [low, high] = [Math.ceil(Math.log10(min) - 1e-9), Math.floor(Math.log10(max) + 1e-9)];
      const every = Math.max(1, Math.ceil((high - low) / wanted));
      return Array.from({ length: Math.floor((high - low) / every) + 1 }, (_, i) => [10 ** (low + i * every), number(10 ** (low + i * every), 1)]);
    }
    const rough = (max - min) / wanted;
    const ten = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 5, 10].map((k) => k * ten).find((s) => s >= rough * 0.7);
    const first = Math.ceil(min / step - 1e-9);
    return Array.from({ length: Math.floor(max / step + 1e-9) - first + 1 }, (_, i) => [(first + i) * step, number(Number(((first + i) * step).toPrecision(6)))]);
  };

  /** Data to pixels and back. */
  const scale = ({ min, max, log }, from, to) => {
    const at = log ? Math.log10 : (x) => x;
    const [low, high] = [at(min), at(max)];
    const forth = (x) => from + ((at(x) - low) / (high - low)) * (to - from);
    const back = (pixel) => {
      const x = low + (Math.min(1, Math.max(0, (pixel - from) / (to - from)))) * (high - low);
      return log ? 10 ** x : x;
    };
    return { forth, back };
  };

  const inside = ({ min, max }, x) => x >= min && x <= max;

  const path = (points, x, y) => {
    let text = "", pen = "M";
    for (const [a, b] of points) {
      const [u, v] = [x(a), Math.min(1e4, Math.max(-1e4, y(b)))]; // what lies far outside is cut off anyway
      if (Number.isNaN(u) || Number.isNaN(v)) { pen = "M"; continue; }
      text += `${pen}${u.toFixed(1)} ${v.toFixed(1)}`;
      pen = "L";
    }
    return text;
  };

  const DASHES = { solid: "none", dash: "7 4", dot: "2 4", mixed: "9 4 2 4" };

  /** One set of axes as SVG, `width` pixels wide. */
  const draw = (panel, width, words) => {
    const svg = document.createElementNS(SVG, "svg");
    const box = { left: INSIDE.left, right: width - INSIDE.right, top: INSIDE.top, bottom: HEIGHT - INSIDE.bottom };
    for (const [key, value] of Object.entries({ width, height: HEIGHT, viewBox: `0 0 ${width} ${HEIGHT}`, role: "img", "aria-label": words })) svg.setAttribute(key, value);
    const x = scale(panel.x, box.left, box.right), y = scale(panel.y, box.bottom, box.top);
    const clip = `kx-clip-${(unique += 1)}`;
    shape(shape(svg, "clipPath", { id: clip }), "rect", { x: box.left, y: box.top, width: box.right - box.left, height: box.bottom - box.top });
    shape(svg, "text", { x: box.left, y: 15, class: "kx-head" }, panel.title);
    for (const [at, label] of ticks(panel.x, (box.right - box.left) / 65)) {
      shape(svg, "line", { x1: x.forth(at), x2: x.forth(at), y1: box.top, y2: box.bottom, class: "kx-grid" });
      shape(svg, "text", { x: x.forth(at), y: box.bottom + 15, "text-anchor": "middle" }, label);
    }
    for (const [at, label] of ticks(panel.y, (box.bottom - box.top) / 45)) {
      shape(svg, "line", { x1: box.left, x2: box.right, y1: y.forth(at), y2: y.forth(at), class: "kx-grid" });
      shape(svg, "text", { x: box.left - 5, y: y.forth(at) + 4, "text-anchor": "end" }, label);
    }
    shape(svg, "text", { x: (box.left + box.right) / 2, y: HEIGHT - 6, "text-anchor": "middle" }, panel.x.label);
    const ink = shape(svg, "g", { "clip-path": `url(#${clip})` });
    for (const band of panel.bands ?? []) {
      const [x0, x1] = band.x ? band.x.map(x.forth) : [box.left, box.right];
      const [y1, y0] = band.y ? band.y.map(y.forth) : [box.bottom, box.top];
      shape(ink, "rect", { x: x0, y: y0, width: Math.max(0, x1 - x0), height: Math.max(0, y1 - y0), class: `kx-band ${INKS[band.color ?? 4]}` });
    }
    for (const rule of panel.rules ?? []) {
      const line = rule.x === undefined ? { x1: box.left, x2: box.right, y1: y.forth(rule.y), y2: y.forth(rule.y) } : { x1: x.forth(rule.x), x2: x.forth(rule.x), y1: box.top, y2: box.bottom };
      shape(ink, "line", { ...line, class: `kx-line ${INKS[rule.color ?? 4]}`, "stroke-width": 1.2, "stroke-dasharray": DASHES[rule.dash ?? "dot"] });
    }
    for (const line of panel.lines ?? []) {
      shape(ink, "path", { d: path(line.points, x.forth, y.forth), class: `kx-line ${INKS[line.color]}`, "stroke-width": line.width ?? 2, "stroke-dasharray": DASHES[line.dash ?? "solid"] });
    }
    for (const bar of panel.bars ?? []) {
      shape(ink, "rect", { x: x.forth(bar.x0), width: x.forth(bar.x1) - x.forth(bar.x0), y: Math.min(y.forth(bar.y), y.forth(0)), height: Math.abs(y.forth(0) - y.forth(bar.y)), class: `kx-bar ${INKS[bar.color]}` });
    }
    for (const dots of panel.dots ?? []) {
      for (const [a, b] of dots.points.filter(([a, b]) => inside(panel.x, a) && inside(panel.y, b))) shape(svg, "circle", { cx: x.forth(a), cy: y.forth(b), r: dots.size ?? 5, class: `kx-dot ${INKS[dots.color]}${dots.hollow ? " kx-hollow" : ""}` });
    }
    for (const note of panel.notes ?? []) {
      shape(svg, "text", { x: x.forth(note.x) + (note.dx ?? 0), y: y.forth(note.y) + (note.dy ?? 0), "text-anchor": note.anchor ?? "start", class: "kx-note" }, note.text);
    }
    shape(svg, "rect", { x: box.left, y: box.top, width: box.right - box.left, height: box.bottom - box.top, class: "kx-frame" });
    return { svg, back: (left, top) => [x.back(left), y.back(top)] };
  };

  /** The named lines, bands, dots and bars of a panel as a list under it. */
  const legend = (panel) => {
    const list = element("ul", { class: "kx-legend" });
    const kinds = [[panel.lines, "line"], [panel.rules, "line"], [panel.bands, "band"], [panel.bars, "bar"], [panel.dots, "dot"]];
    for (const [items, kind] of kinds) {
      for (const item of (items ?? []).filter((i) => i.name)) {
        const swatch = document.createElementNS(SVG, "svg");
        for (const [key, value] of Object.entries({ width: 26, height: 12, "aria-hidden": "true" })) swatch.setAttribute(key, value);
        const color = `${INKS[item.color ?? 4]}`;
        if (kind === "line") shape(swatch, "path", { d: "M1 6H25", class: `kx-line ${color}`, "stroke-width": item.width ?? 2, "stroke-dasharray": DASHES[item.dash ?? (items === panel.rules ? "dot" : "solid")] });
        else if (kind === "dot") shape(swatch, "circle", { cx: 13, cy: 6, r: 4.5, class: `kx-dot ${color}${item.hollow ? " kx-hollow" : ""}` });
        else shape(swatch, "rect", { x: 4, y: 1, width: 18, height: 10, class: `kx-${kind} ${color}` });
        list.append(element("li", {}, swatch, item.name));
      }
    }
    return list;
  };

  /** The value of a control: the one last written, which need not lie on a step, or that of the slider or option since chosen. */
  const read = (control, input) => {
    if (control.options) return typeof control.value === "number" ? Number(input.value) : input.value;
    if (input.value === control.place) return control.held;
    const value = control.log ? 10 ** Number(input.value) : Number(input.value);
    return control.whole ? Math.round(value) : value;
  };
  const write = (control, input, value) => {
    input.value = control.log ? Math.log10(value) : value;
    Object.assign(control, { place: input.value, held: value });
  };

  const build = (host, name) => {
    const play = plays[name];
    const inputs = {}, shown = {};
    const controls = element("div", { class: "kx-knobs" });
    for (const control of play.controls) {
      const id = `kx-${name}-${control.name}-${(unique += 1)}`;
      const input = control.options
        ? element("select", { id }, ...control.options.map((o) => element("option", { value: o }, String(o))))
        : element("input", { id, type: "range", min: control.log ? Math.log10(control.min) : control.min, max: control.log ? Math.log10(control.max) : control.max, step: control.step });
      input.dataset.knob = control.name;
      write(control, input, control.value);
      inputs[control.name] = input;
      shown[control.name] = element("span", { "aria-hidden": "true", class: "kx-value" });
      controls.append(element("div", { class: "kx-knob" }, element("label", { for: id }, control.label), input, shown[control.name]));
      input.addEventListener("input", () => schedule());
    }
    const again = element("button", { type: "button", class: "kx-again" }, "Reset");
    again.addEventListener("click", () => set(Object.fromEntries(play.controls.map((c) => [c.name, c.value]))));
    controls.append(again);
    const picture = element("div", { class: "kx-panels" });
    const readout = element("p", { class: "kx-readout", role: "status" });
    host.append(controls, picture, readout);
    host.classList.add("kx-on");

    let waiting = false, wide = 0;
    const schedule = () => {
      if (waiting) return;
      waiting = true;
      requestAnimationFrame(() => { waiting = false; render(); });
    };
    const set = (values) => {
      for (const control of play.controls) if (control.name in values) write(control, inputs[control.name], values[control.name]);
      schedule();
    };
    const render = () => {
      const values = Object.fromEntries(play.controls.map((c) => [c.name, read(c, inputs[c.name])]));
      for (const control of play.controls.filter((c) => !c.options)) {
        const text = number(values[control.name], 4) + control.unit;
        shown[control.name].textContent = text;
        inputs[control.name].setAttribute("aria-valuetext", text);
      }
      const { panels, text } = play.show(values, play.compute(values));
      wide = picture.clientWidth;
      const width = wide < 560 ? wide : Math.floor((wide - 16) / 2);
      picture.replaceChildren(...panels.map((panel) => {
        const { svg, back } = draw(panel, width, `${panel.title}. Across: ${panel.x.label}. ${text}`);
        if (panel.drag) draggable(svg, back, panel.drag);
        return element("div", { class: "kx-panel", style: `width: ${width}px` }, svg, legend(panel));
      }));
      readout.textContent = text;
    };
    // A drag inside the axes sets the controls. The picture is drawn anew under the pointer, so the frame around it listens.
    const draggable = (svg, back, drag) => {
      svg.classList.add("kx-drag");
      svg.addEventListener("pointerdown", (start) => {
        const frame = svg.getBoundingClientRect();
        const move = (event) => set(drag(...back(event.clientX - frame.left, event.clientY - frame.top), ...back(start.clientX - frame.left, start.clientY - frame.top)));
        const stop = () => { removeEventListener("pointermove", move); };
        addEventListener("pointermove", move);
        addEventListener("pointerup", stop, { once: true });
        addEventListener("pointercancel", stop, { once: true });
        move(start);
      });
    };
    new ResizeObserver(() => { if (picture.clientWidth !== wide) schedule(); }).observe(picture);
    render();
  };

  /** Registers a figure and puts it into its places on the page. */
  window.kexuePlay = (name, play) => {
    plays[name] = { ...play, defaults: Object.fromEntries(play.controls.map((c) => [c.name, c.value])) };
    for (const host of document.querySelectorAll(`.kx-play[data-play="${name}"]`)) build(host, name);
  };
  Object.assign(window.kexuePlay, { slider, choice, number });

  // Numbers that several figures need.
  const range = (count, f) => Array.from({ length: count }, (_, i) => f(i));
  const spaced = (min, max, count) => range(count, (i) => min + ((max - min) * i) / (count - 1));
  const spacedLog = (min, max, count) => spaced(Math.log(min), Math.log(max), count).map(Math.exp);
  const sum = (values) => values.reduce((total, x) => total + x, 0);

  /** Uniform numbers in (0, 1), the same for the same seed (mulberry32). */
  const uniform = (seed) => () => {
    seed = (seed + 0x6d2b79f5) | 0;
    let t = Math.imul(seed ^ (seed >>> 15), 1 | seed);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return (((t ^ (t >>> 14)) >>> 0) + 0.5) / 4294967296;
  };
  /** `count` standard normal numbers (Box and Muller). */
  const normals = (count, seed) => {
    const draw = uniform(seed);
    return range(count, () => Math.sqrt(-2 * Math.log(draw())) * Math.cos(2 * Math.PI * draw()));
  };
  /** P(Z < z): the series near 0, Lentz's continued fraction in the tails, 14 digits. */
  const normalCdf = (z) => {
    const density = Math.exp((-z * z) / 2) / Math.sqrt(2 * Math.PI);
    if (Math.abs(z) < 3) {
      let term = z, total = z;
      for (let k = 3; Math.abs(term) > 1e-17 * Math.abs(total); k += 2) total += term *= (z * z) / k;
      return 0.5 + density * total;
    }
    let fraction = 0;
    for (let k = 80; k > 0; k -= 1) fraction = k / (Math.abs(z) + fraction);
    const tail = density / (Math.abs(z) + fraction);
    return z < 0 ? tail : 1 - tail;
  };
  Object.assign(window.kexuePlay, { range, spaced, spacedLog, sum, uniform, normals, normalCdf });
})();
