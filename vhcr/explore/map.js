// A map of points on a canvas. Points are written pixel by pixel into an image, so that 100,000 of them take
// a few milliseconds on any machine, with or without a graphics processor.

export class PointMap {
  constructor(canvas, { onSelect, onLasso, onHover }) {
    this.canvas = canvas;
    this.context = canvas.getContext("2d");
    Object.assign(this, { onSelect, onLasso, onHover });
    this.x = this.y = new Float64Array(0);
    this.colours = new Uint32Array(0); // 0xBBGGRR of each point; null highlight: all
    this.shown = null; // Uint8Array: 1 where a point is lit, or null
    this.selected = -1;
    this.scale = 1; this.centreX = 0; this.centreY = 0;
    this.path = null; this.lassoMode = false; this.pointers = new Map();
    new ResizeObserver(() => this.resize()).observe(canvas);
    for (const [name, method] of [["pointerdown", "down"], ["pointermove", "move"], ["pointerup", "up"], ["pointercancel", "up"], ["wheel", "wheel"], ["keydown", "key"]])
      canvas.addEventListener(name, (event) => this[method](event), { passive: false });
    canvas.addEventListener("pointerleave", () => this.onHover(-1));
  }

  setPoints(x, y) {
    this.x = Float64Array.from(x); this.y = Float64Array.from(y);
    this.colours = new Uint32Array(x.length).fill(0x888888);
    this.shown = null; this.selected = -1;
    this.fit();
  }

  resize() {
    const { width, height } = this.canvas.getBoundingClientRect();
    const ratio = Math.min(window.devicePixelRatio || 1, 2);
    const fitted = this.image === undefined || this.isFit;
    this.canvas.width = Math.max(1, Math.round(width * ratio));
    this.canvas.height = Math.max(1, Math.round(height * ratio));
    this.ratio = ratio;
    this.image = this.context.createImageData(this.canvas.width, this.canvas.height);
    this.pixels = new Uint32Array(this.image.data.buffer);
    if (fitted) this.fit(); else this.redraw();
  }

  fit() {
    let [left, right, low, high] = [Infinity, -Infinity, Infinity, -Infinity];
    for (let i = 0; i < this.x.length; i++) {
      left = Math.min(left, this.x[i]); right = Math.max(right, this.x[i]);
      low = Math.min(low, this.y[i]); high = Math.max(high, this.y[i]);
    }
    if (left > right) return;
    this.centreX = (left + right) / 2; this.centreY = (low + high) / 2;
    this.scale = 0.92 * Math.min(this.canvas.width / (right - left || 1), this.canvas.height / (high - low || 1));
    this.isFit = true;
    this.redraw();
  }

  zoom(factor, px = this.canvas.width / 2, py = this.canvas.height / 2) {
    this.centreX += (px - this.canvas.width / 2) / this.scale * (1 - 1 / factor);
    this.centreY -= (py - this.canvas.height / 2) / this.scale * (1 - 1 / factor);
    this.scale *= factor; this.isFit = false;
    this.redraw();
  }

  redraw() {
    if (this.waiting) return;
    this.waiting = requestAnimationFrame(() => { this.waiting = 0; this.draw(); });
  }

  get radius() {
    const base = this.x.length > 30000 ? 1.5 : this.x.length > 5000 ? 2.2 : 3.2;
    return base * this.ratio;
  }

  draw() {
    if (!this.pixels) return;
    const { width, height } = this.canvas;
    this.pixels.fill(0);
    if (this.shown) { this.stamp(0, 0.16); this.stamp(1, 0.9); } else this.stamp(-1, 0.8);
    this.context.putImageData(this.image, 0, 0);
    const context = this.context, ink = getComputedStyle(this.canvas).color;
    context.strokeStyle = ink; context.lineWidth = 2 * this.ratio;
    for (const [place, size] of [[this.selected, 3], ...(this.marks || []).map((mark) => [mark, 2])]) if (place >= 0) {
      context.beginPath();
      context.arc(this.toX(place), this.toY(place), this.radius + size * this.ratio, 0, 7);
      context.stroke();
    }
    if (this.path && this.path.length > 1) {
      context.beginPath();
      this.path.forEach(([px, py]) => context.lineTo(px, py));
      context.closePath(); context.setLineDash([6, 4]); context.stroke(); context.setLineDash([]);
    }
    this.frames = (this.frames || 0) + 1;
  }

  toX(place) { return (this.x[place] - this.centreX) * this.scale + this.canvas.width / 2; }
  toY(place) { return this.canvas.height / 2 - (this.y[place] - this.centreY) * this.scale; }

  // Discs with soft edges, drawn over one another; `which` of `shown` (-1: all), with this opacity.
  // In whole numbers, alpha out of 256, red and blue at once: this is all that a frame waits for.
  stamp(which, opacity) {
    const { width, height } = this.canvas, radius = this.radius, reach = Math.ceil(radius);
    const steps = [], alphas = [];
    for (let dy = -reach; dy <= reach; dy++) for (let dx = -reach; dx <= reach; dx++) {
      const cover = Math.min(1, Math.max(0, radius + 0.5 - Math.hypot(dx, dy)));
      if (cover > 0.05) { steps.push(dy * width + dx); alphas.push(Math.round(256 * cover * opacity)); }
    }
    const { pixels, scale, x, y, colours, shown } = this, count = x.length, size = steps.length;
    const step = Int32Array.from(steps), alpha = Int32Array.from(alphas);
    const halfX = width / 2 - this.centreX * scale, halfY = height / 2 + this.centreY * scale;
    for (let i = 0; i < count; i++) {
      if (which >= 0 && shown[i] !== which) continue;
      const px = Math.round(x[i] * scale + halfX), py = Math.round(halfY - y[i] * scale);
      if (px < reach || py < reach || px >= width - reach || py >= height - reach) continue;
      const middle = py * width + px, colour = colours[i] & 0xffffff, redBlue = colour & 0xff00ff, green = colour & 0xff00;
      for (let k = 0; k < size; k++) {
        const at = middle + step[k], old = pixels[at], over = alpha[k], below = old >>> 24;
        if (below === 0) { pixels[at] = (colour | (Math.min(255, over) << 24)) >>> 0; continue; }
        const all = over + ((below * (256 - over)) >> 8), share = ((over << 8) / all) | 0, rest = 256 - share;
        pixels[at] = (((Math.imul(old & 0xff00ff, rest) + Math.imul(redBlue, share)) >>> 8) & 0xff00ff
          | ((Math.imul(old & 0xff00, rest) + Math.imul(green, share)) >>> 8) & 0xff00 | (Math.min(255, all) << 24)) >>> 0;
      }
    }
  }

  nearestTo(px, py, within) {
    let best = -1, least = within * within;
    for (let i = 0; i < this.x.length; i++) {
      if (this.shown && !this.shown[i]) continue;
      const away = (this.toX(i) - px) ** 2 + (this.toY(i) - py) ** 2;
      if (away < least) { least = away; best = i; }
    }
    return best;
  }

  select(place, { centre = false } = {}) {
    this.selected = place;
    if (place >= 0 && (centre || this.toX(place) < 0 || this.toX(place) > this.canvas.width || this.toY(place) < 0 || this.toY(place) > this.canvas.height)) {
      this.centreX = this.x[place]; this.centreY = this.y[place]; this.isFit = false;
    }
    this.redraw();
  }

  at(event) {
    const box = this.canvas.getBoundingClientRect();
    return [(event.clientX - box.left) * this.ratio, (event.clientY - box.top) * this.ratio];
  }

  down(event) {
    this.canvas.setPointerCapture?.(event.pointerId);
    this.pointers.set(event.pointerId, this.at(event));
    this.moved = 0;
    if (this.pointers.size === 1 && (event.shiftKey || this.lassoMode)) this.path = [this.at(event)];
    else this.path = null;
  }

  move(event) {
    const now = this.at(event), before = this.pointers.get(event.pointerId);
    if (!before) { if (event.pointerType === "mouse") this.onHover(this.nearestTo(...now, 12 * this.ratio), event); return; }
    if (this.path) { this.path.push(now); this.moved = 99; this.redraw(); return; }
    if (this.pointers.size === 2) {
      const other = [...this.pointers].find(([id]) => id !== event.pointerId)[1];
      const spread = Math.hypot(now[0] - other[0], now[1] - other[1]) / Math.max(1, Math.hypot(before[0] - other[0], before[1] - other[1]));
      this.zoom(spread, (now[0] + other[0]) / 2, (now[1] + other[1]) / 2);
    }
    const share = 1 / this.pointers.size;
    this.centreX -= (now[0] - before[0]) / this.scale * share; this.centreY += (now[1] - before[1]) / this.scale * share;
    this.moved += Math.abs(now[0] - before[0]) + Math.abs(now[1] - before[1]);
    if (this.moved > 4) this.isFit = false;
    this.pointers.set(event.pointerId, now);
    this.redraw();
  }

  up(event) {
    if (!this.pointers.delete(event.pointerId)) return;
    if (this.path) {
      const path = this.path;
      this.path = null;
      if (path.length > 2) this.onLasso(this.within(path));
      this.redraw();
    } else if (this.moved <= 4 * this.ratio && event.type === "pointerup") {
      const place = this.nearestTo(...this.at(event), 20 * this.ratio);
      if (place >= 0) this.onSelect(place);
    }
  }

  within(path) {
    const inside = [];
    for (let i = 0; i < this.x.length; i++) {
      const px = this.toX(i), py = this.toY(i);
      let odd = false;
      for (let k = 0, j = path.length - 1; k < path.length; j = k++) {
        const [ax, ay] = path[k], [bx, by] = path[j];
        if (ay > py !== by > py && px < (bx - ax) * (py - ay) / (by - ay) + ax) odd = !odd;
      }
      if (odd) inside.push(i);
    }
    return inside;
  }

  wheel(event) { event.preventDefault(); this.zoom(Math.exp(-event.deltaY * (event.deltaMode ? 0.05 : 0.0015)), ...this.at(event)); }

  key(event) {
    const way = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (way) this.step(...way);
    else if (event.key === "+" || event.key === "=") this.zoom(1.4);
    else if (event.key === "-") this.zoom(1 / 1.4);
    else if (event.key === "0") this.fit();
    else return;
    event.preventDefault();
  }

  // The next point in a direction: near, and not far aside.
  step(dx, dy) {
    const here = this.selected, px = here < 0 ? this.canvas.width / 2 : this.toX(here), py = here < 0 ? this.canvas.height / 2 : this.toY(here);
    let best = -1, least = Infinity;
    for (let i = 0; i < this.x.length; i++) {
      if (i === here || (this.shown && !this.shown[i])) continue;
      const ax = this.toX(i) - px, ay = this.toY(i) - py, ahead = ax * dx + ay * dy, aside = Math.abs(ax * dy) + Math.abs(ay * dx);
      if (ahead > 0 && ahead + 2 * aside < least) { least = ahead + 2 * aside; best = i; }
    }
    if (best >= 0) this.onSelect(best);
  }
}
