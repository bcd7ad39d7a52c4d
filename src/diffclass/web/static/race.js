// The race as lanes: a class each, its log-odds over the leader with a 95% interval, the best one on top.

const MOST = 14; // lanes
const WIDTH = 1.96; // standard errors each way
const bend = (x) => Math.asinh(x / 2); // near ties and lost causes on one axis
const TICKS = [0, -3, -10, -30, -100, -300, -1000, -3000, -10000, -100000];

function element(name, className, parent) {
  const made = document.createElement(name);
  made.className = className;
  parent?.append(made);
  return made;
}

export class Race {
  constructor(lanes, axis) {
    this.box = lanes;
    this.axis = axis;
    this.clear();
  }

  clear() {
    this.box.replaceChildren();
    this.axis.replaceChildren();
    this.lanes = new Map();
    this.left = new Map(); // class -> draws after which it was out
  }

  show({ leader, survivors, n_draws, class_log_odds: odds, class_log_odds_se: ses }) {
    const alive = new Set(survivors);
    const names = Object.keys(odds).filter((name) => odds[name] !== null);
    for (const name of names) if (!alive.has(name) && !this.left.has(name)) this.left.set(name, n_draws);
    names.sort((a, b) => (b === leader) - (a === leader) || odds[b] - odds[a]);
    const shown = names.slice(0, MOST);
    const ends = (name) => {
      const half = name === leader ? 0 : WIDTH * (ses[name] ?? Math.abs(odds[name]));
      return [odds[name] - half, odds[name] + half];
    };
    const low = bend(Math.min(-3, ...shown.map((name) => ends(name)[0])));
    const high = Math.max(0.35, ...shown.map((name) => bend(ends(name)[1])));
    const place = (x) => `${(100 * (bend(x) - low)) / (high - low)}%`;
    const widest = Math.max(...shown.map((name) => name.length));
    for (const part of [this.box, this.axis]) part.style.setProperty("--names", `${Math.max(2, Math.min(widest, 24)) + 0.5}ch`);
    this.box.style.height = `calc(${shown.length} * var(--lane))`;
    for (const [name, lane] of this.lanes) if (!shown.includes(name)) { lane.remove(); this.lanes.delete(name); }
    shown.forEach((name, rank) => this.draw(name, rank, { leader, alive, odds, ends, place }));
    this.ticks(place, low);
  }

  draw(name, rank, { leader, alive, odds, ends, place }) {
    const lane = this.lanes.get(name) ?? this.add(name);
    const [from, to] = ends(name);
    lane.style.transform = `translateY(calc(${rank} * var(--lane)))`;
    lane.dataset.rank = rank;
    lane.classList.toggle("out", !alive.has(name));
    lane.classList.toggle("lead", name === leader);
    lane.querySelector(".zero").style.left = place(0);
    const span = lane.querySelector(".span");
    span.style.left = place(from);
    span.style.width = `calc(${place(to)} - ${place(from)})`;
    lane.querySelector(".dot").style.left = place(odds[name]);
    const value = name === leader ? "leads" : alive.has(name) ? `−${Math.abs(odds[name]).toFixed(1)}` : `out at ${this.left.get(name)}`;
    lane.querySelector(".value").textContent = value;
    lane.setAttribute("aria-label", name === leader ? `${name} leads` : `${name}: log-odds ${odds[name].toFixed(1)}, ${alive.has(name) ? "in the race" : value + " draws"}`);
  }

  add(name) {
    const lane = element("div", "lane", this.box);
    lane.setAttribute("role", "listitem");
    const shown = element("span", "name", lane);
    shown.textContent = shown.title = name;
    const track = element("span", "track", lane);
    for (const part of ["zero", "span", "dot"]) element("span", part, track);
    element("span", "value", lane);
    this.lanes.set(name, lane);
    return lane;
  }

  ticks(place, low) {
    const ticks = TICKS.filter((tick) => bend(tick) >= low);
    this.axis.replaceChildren();
    for (const tick of ticks) {
      const mark = element("span", "", this.axis);
      mark.textContent = tick === 0 ? "0" : `−${-tick}`;
      mark.style.left = place(tick);
    }
  }

  /** Put the lanes in the order that is seen, for whoever hears them. */
  settle() {
    const inOrder = [...this.lanes.values()].sort((a, b) => a.dataset.rank - b.dataset.rank);
    this.box.append(...inOrder);
  }
}

/** Draw shares as a bar, the largest first, those below 1% left out. */
export function bar(box, shares) {
  box.replaceChildren();
  const found = Object.entries(shares).filter(([, share]) => share >= 0.01).sort((a, b) => b[1] - a[1]);
  for (const [name, share] of found) {
    const part = element("span", "", box);
    part.textContent = share > 0.12 ? `${name} ${(100 * share).toFixed(0)}%` : "";
    part.title = `${name}: ${(100 * share).toFixed(1)}%`;
    part.style.width = `${100 * share}%`;
  }
  box.setAttribute("role", "img");
  box.setAttribute("aria-label", found.map(([name, share]) => `${name} ${(100 * share).toFixed(0)}%`).join(", "));
}
