"use strict";
// All descendants of a root at once: one draw call for the edges, one for the marks. WebGL where
// there is one, else a canvas with the edges stroked in batches.

const COLOURS = ["#8a8a8a", "#440154", "#3b528b", "#21918c", "#5ec962", "#fde725"];
const LOST = 16, HIDDEN = 32, BATCH = 200;
const box = document.getElementById("map"), canvas = document.getElementById("canvas");
const hover = document.getElementById("hover"), status = document.getElementById("map-status");
const view = { x: 0, y: 0, zoom: 0.95 };
let nodes = null, names = null, grid = null, painter = null, found = -1, asked = false;

function read(buffer) {
  const n = new DataView(buffer).getUint32(0, true);
  let at = 4;
  const take = (Type, count) => { const part = new Type(buffer.slice(at, at + count * Type.BYTES_PER_ELEMENT)); at += part.byteLength; return part; };
  return { n, x: take(Float32Array, n), y: take(Float32Array, n), under: take(Uint32Array, n), mark: take(Uint8Array, n) };
}

function rgb(colour) { return [1, 3, 5].map((i) => parseInt(colour.slice(i, i + 2), 16) / 255); }

function makeGL() {
  const gl = canvas.getContext("webgl2", { antialias: false, preserveDrawingBuffer: true });
  if (!gl) return null;
  const build = (vertex, fragment) => {
    const program = gl.createProgram();
    for (const [kind, source] of [[gl.VERTEX_SHADER, vertex], [gl.FRAGMENT_SHADER, fragment]]) {
      const shader = gl.createShader(kind);
      gl.shaderSource(shader, "#version 300 es\nprecision highp float;\n" + source);
      gl.compileShader(shader);
      gl.attachShader(program, shader);
    }
    gl.linkProgram(program);
    return gl.getProgramParameter(program, gl.LINK_STATUS) ? program : null;
  };
  const place = "uniform vec2 shift; uniform vec2 scale; in vec2 at;\n";
  const lines = build(place + "void main(){ gl_Position = vec4((at - shift) * scale, 0.0, 1.0); }",
    "uniform vec4 ink; out vec4 c; void main(){ c = ink; }");
  const marks = build(place + `uniform float size; in float mark; flat out int kind; out vec3 tint;
    uniform vec3 colours[6];
    void main(){ int m = int(mark); kind = m; tint = colours[m & 7]; bool lost = (m & 16) != 0;
      gl_Position = vec4((at - shift) * scale, lost ? -0.1 : 0.0, 1.0); gl_PointSize = size * (lost ? 2.2 : 1.0); }`,
    `flat in int kind; in vec3 tint; out vec4 c;
    void main(){ vec2 p = gl_PointCoord * 2.0 - 1.0;
      if ((kind & 16) != 0) { if (abs(p.x) > (p.y + 1.0) / 2.0) discard; c = vec4(0.83, 0.0, 0.1, 1.0); return; }
      float d = (kind & 32) != 0 ? abs(p.x) + abs(p.y) : dot(p, p);
      if (d > 1.0) discard; c = vec4((kind & 32) != 0 && d < 0.5 ? vec3(1.0) : tint, 1.0); }`);
  if (!lines || !marks) return null;
  const n = nodes.n, points = new Float32Array(2 * n), ends = new Uint32Array(2 * Math.max(0, n - 1));
  for (let i = 0; i < n; i++) { points[2 * i] = nodes.x[i]; points[2 * i + 1] = nodes.y[i]; }
  for (let i = 1; i < n; i++) { ends[2 * i - 2] = nodes.under[i]; ends[2 * i - 1] = i; }
  const load = (target, data) => { const b = gl.createBuffer(); gl.bindBuffer(target, b); gl.bufferData(target, data, gl.STATIC_DRAW); return b; };
  const where = load(gl.ARRAY_BUFFER, points), what = load(gl.ARRAY_BUFFER, nodes.mark);
  load(gl.ELEMENT_ARRAY_BUFFER, ends);
  const tints = new Float32Array(COLOURS.flatMap(rgb));
  const bind = (program, name, buffer, size, type) => {
    const slot = gl.getAttribLocation(program, name);
    gl.bindBuffer(gl.ARRAY_BUFFER, buffer); gl.enableVertexAttribArray(slot); gl.vertexAttribPointer(slot, size, type, false, 0, 0);
  };
  const use = (program, s) => {
    gl.useProgram(program);
    gl.uniform2f(gl.getUniformLocation(program, "shift"), view.x, view.y);
    gl.uniform2f(gl.getUniformLocation(program, "scale"), s.x, s.y);
    bind(program, "at", where, 2, gl.FLOAT);
  };
  return () => {
    const s = scales();
    gl.viewport(0, 0, canvas.width, canvas.height);
    gl.clearColor(0, 0, 0, 0); gl.clear(gl.COLOR_BUFFER_BIT);
    gl.enable(gl.BLEND); gl.blendFunc(gl.SRC_ALPHA, gl.ONE_MINUS_SRC_ALPHA);
    use(lines, s);
    gl.uniform4f(gl.getUniformLocation(lines, "ink"), 0.55, 0.55, 0.55, n > 2000 ? 0.25 : 0.7);
    gl.drawElements(gl.LINES, ends.length, gl.UNSIGNED_INT, 0);
    use(marks, s);
    bind(marks, "mark", what, 1, gl.UNSIGNED_BYTE);
    gl.uniform1f(gl.getUniformLocation(marks, "size"), dot());
    gl.uniform3fv(gl.getUniformLocation(marks, "colours"), tints);
    gl.drawArrays(gl.POINTS, 0, n);
    gl.finish();
  };
}

function makeFlat() {
  const pen = canvas.getContext("2d");
  return () => {
    const s = scales(), w = canvas.width, h = canvas.height;
    const px = (i) => ((nodes.x[i] - view.x) * s.x + 1) * w / 2, py = (i) => (1 - (nodes.y[i] - view.y) * s.y) * h / 2;
    pen.clearRect(0, 0, w, h);
    pen.strokeStyle = "rgba(140,140,140,0.4)"; pen.lineWidth = 1;
    for (let i = 1; i < nodes.n; i += BATCH) {
      pen.beginPath();
      for (let j = i; j < Math.min(i + BATCH, nodes.n); j++) { pen.moveTo(px(nodes.under[j]), py(nodes.under[j])); pen.lineTo(px(j), py(j)); }
      pen.stroke();
    }
    const size = dot();
    for (let i = 0; i < nodes.n; i++) {
      const x = px(i), y = py(i), mark = nodes.mark[i];
      if (x < -9 || y < -9 || x > w + 9 || y > h + 9) continue;
      if (mark & LOST) { pen.fillStyle = "#d4001a"; pen.beginPath(); pen.moveTo(x, y - size); pen.lineTo(x + size, y + size); pen.lineTo(x - size, y + size); pen.fill(); continue; }
      pen.fillStyle = COLOURS[mark & 7];
      pen.fillRect(x - size / 2, y - size / 2, size, size);
    }
  };
}

function scales() { const w = canvas.width, h = canvas.height, m = Math.min(w, h); return { x: view.zoom * m / w, y: view.zoom * m / h }; }
function dot() { return Math.max(2.5, Math.min(14, 2.5 * Math.sqrt(view.zoom) * (nodes.n < 2000 ? 3 : 1))) * (devicePixelRatio || 1); }

function draw() { if (!asked) { asked = true; requestAnimationFrame(paint); } }
function paint() {
  asked = false;
  const began = performance.now();
  painter();
  box.dataset.redraw = (performance.now() - began).toFixed(1);
}

function size() {
  const ratio = devicePixelRatio || 1;
  canvas.width = Math.max(1, box.clientWidth * ratio); canvas.height = Math.max(1, box.clientHeight * ratio);
  draw();
}

// A grid over the plane finds the mark under the pointer without looking at all of them.
function makeGrid() {
  const side = Math.max(1, Math.min(512, Math.ceil(Math.sqrt(nodes.n / 4)))), cells = new Map();
  for (let i = 0; i < nodes.n; i++) {
    const key = cell(nodes.x[i], side) * side + cell(nodes.y[i], side);
    if (cells.has(key)) cells.get(key).push(i); else cells.set(key, [i]);
  }
  return { side, cells };
}
function cell(v, side) { return Math.max(0, Math.min(side - 1, Math.floor((v + 1) / 2 * side))); }
function world(event) {
  const r = canvas.getBoundingClientRect(), s = scales();
  return { x: ((event.clientX - r.left) / r.width * 2 - 1) / s.x + view.x, y: (1 - (event.clientY - r.top) / r.height * 2) / s.y + view.y };
}
function nearest(p) {
  const reach = 12 / (view.zoom * Math.min(box.clientWidth, box.clientHeight) / 2), side = grid.side;
  let best = -1, least = reach * reach;
  const [x0, x1, y0, y1] = [cell(p.x - reach, side), cell(p.x + reach, side), cell(p.y - reach, side), cell(p.y + reach, side)];
  for (let i = x0; i <= x1; i++) for (let j = y0; j <= y1; j++) for (const k of grid.cells.get(i * side + j) || []) {
    const d = (nodes.x[k] - p.x) ** 2 + (nodes.y[k] - p.y) ** 2;
    if (d < least) { least = d; best = k; }
  }
  return best;
}

async function fetchNames() {
  if (names === null) { names = []; names = await (await fetch(box.dataset.names)).json(); }
  return names;
}
function tell(i) {
  hover.hidden = i < 0 || !names;
  if (i >= 0 && names && names[i] !== undefined) {
    const mark = nodes.mark[i];
    hover.textContent = names[i] + (mark & LOST ? " ▲ lost safety training" : "") + (mark & HIDDEN ? " ◇ unpublished" : "");
  }
}

function zoomBy(factor, p) {
  const next = Math.max(0.5, Math.min(4000, view.zoom * factor));
  if (p) { const k = 1 - view.zoom / next; view.x += (p.x - view.x) * k; view.y += (p.y - view.y) * k; }
  view.zoom = next; draw();
}

function listen() {
  let held = null, moved = false;
  canvas.addEventListener("pointerdown", (e) => { held = world(e); moved = false; canvas.setPointerCapture(e.pointerId); });
  canvas.addEventListener("pointerup", (e) => {
    if (held && !moved) { const i = nearest(world(e)); if (i >= 0 && names && names[i] && box.dataset.model) location.href = box.dataset.model + encodeURIComponent(names[i]); }
    held = null;
  });
  canvas.addEventListener("pointermove", (e) => {
    const p = world(e);
    if (held) { moved = true; view.x += held.x - p.x; view.y += held.y - p.y; draw(); } else { fetchNames(); tell(nearest(p)); }
  });
  canvas.addEventListener("wheel", (e) => { e.preventDefault(); zoomBy(Math.exp(-e.deltaY / 400), world(e)); }, { passive: false });
  canvas.addEventListener("keydown", (e) => {
    const step = 0.2 / view.zoom, keys = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, step], ArrowDown: [0, -step] };
    if (keys[e.key]) { view.x += keys[e.key][0]; view.y += keys[e.key][1]; e.preventDefault(); draw(); }
    if (e.key === "+" || e.key === "=") zoomBy(1.4);
    if (e.key === "-") zoomBy(1 / 1.4);
    if (e.key === "0") { Object.assign(view, { x: 0, y: 0, zoom: 0.95 }); draw(); }
  });
  const search = document.getElementById("map-search"), out = document.getElementById("map-found");
  search.hidden = false;
  search.addEventListener("submit", async (e) => {
    e.preventDefault();
    const words = document.getElementById("map-find").value.toLowerCase(), all = await fetchNames();
    if (!words) return;
    for (let k = 1; k <= all.length; k++) {
      const i = (found + k) % all.length;
      if (all[i].toLowerCase().includes(words)) {
        found = i; view.x = nodes.x[i]; view.y = nodes.y[i]; view.zoom = Math.max(view.zoom, nodes.n > 2000 ? 20 : 2); draw(); tell(i);
        out.textContent = all[i]; return;
      }
    }
    out.textContent = "none";
  });
  const png = document.getElementById("png");
  png.hidden = false;
  png.addEventListener("click", () => canvas.toBlob((blob) => {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(blob); link.download = "map.png"; link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  }));
  new ResizeObserver(size).observe(box);
}

async function begin() {
  try {
    const answer = await fetch(box.dataset.layout);
    if (!answer.ok) throw new Error();
    nodes = read(await answer.arrayBuffer());
  } catch { status.textContent = "The map could not be read; the SVG picture may still be there."; return; }
  painter = makeGL() || makeFlat();
  grid = makeGrid();
  listen();
  size();
  requestAnimationFrame(() => { box.dataset.ready = Math.round(performance.now()); });
  window.modelkinMap = { view, redraw() { const began = performance.now(); painter(); return performance.now() - began; }, count: nodes.n };
}
begin();
