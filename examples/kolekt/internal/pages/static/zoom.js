// Turns the drawings of series into ones in which a person can zoom. The
// drawing of the server stays where this file doesn't run.
"use strict";

const DAY = 86400;
const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

function zoomable(figure) {
  const data = JSON.parse(figure.querySelector(".zoom-data").textContent);
  const n = data.values.length;
  if (n === 0 || data.values.every((v) => v === 0)) return;
  const xs = data.values.map((_, i) => data.from + i * DAY);
  const money = new Intl.NumberFormat("en", { style: "currency", currency: "USD" });
  const whole = new Intl.NumberFormat("en", { style: "currency", currency: "USD", maximumFractionDigits: 0 });
  const text = (v) => v == null ? "–" : data.cents ? money.format(v / 100) : v.toLocaleString("en");
  const short = (v) => data.cents ? (v % 100 ? money : whole).format(v / 100) : v.toLocaleString("en");
  const day = new Intl.DateTimeFormat("en-GB", { day: "numeric", month: "short", year: "numeric", timeZone: "UTC" });
  const brief = new Intl.DateTimeFormat("en-GB", { day: "numeric", month: "short", timeZone: "UTC" });

  const box = document.createElement("div");
  box.className = "zoom";
  const bar = document.createElement("div");
  bar.className = "zoom-bar";
  bar.setAttribute("role", "group");
  bar.setAttribute("aria-label", "How much to show");
  const said = document.createElement("p");
  said.className = "zoom-said";
  said.setAttribute("role", "status");
  box.append(bar);
  figure.querySelector(".plot, .empty").before(box);
  figure.classList.add("zoomed");

  let plot = null;
  let range = [Math.max(0, n - data.days), n];
  const series = [data.values];
  if (data.before) series.push(data.values.map((_, i) => (i >= data.before && data.values[i - data.before]) || null));

  const draw = () => {
    if (plot) plot.destroy();
    const accent = colour("--s-a"), soft = colour("--soft"), line = colour("--line"), ink = colour("--ink"), surface = colour("--surface");
    const axis = { stroke: soft, grid: { stroke: line, width: 1 }, ticks: { show: false }, font: "12px Inter, system-ui, sans-serif", labelGap: 8 };
    plot = new uPlot({
      width: box.clientWidth, height: 240, tzDate: (ts) => uPlot.tzDate(new Date(ts * 1000), "Etc/UTC"),
      cursor: { drag: { x: true, y: false, uni: 20 }, points: { size: 8, fill: accent } },
      legend: { show: true, live: true, markers: { width: 0 } },
      scales: {
        x: { time: true, range: (u, min, max) => [min, max] },
        y: { range: (u, min, max) => [Math.min(0, min || 0), (max || 1) * 1.08] },
      },
      axes: [{ ...axis, space: 70, grid: { show: false }, incrs: [1, 2, 7, 14, 30, 61, 91].map((d) => d * DAY), values: (u, ticks) => ticks.map((v, i) => (i === 0 || new Date(v * 1000).getUTCFullYear() !== new Date(ticks[i - 1] * 1000).getUTCFullYear() ? day : brief).format(new Date(v * 1000))) }, { ...axis, size: data.cents ? 70 : 50, values: (u, vals) => vals.map((v) => data.cents || Number.isInteger(v) ? short(v) : "") }],
      series: [
        { label: "Day", value: (u, v) => v == null ? "–" : day.format(new Date(v * 1000)) },
        data.line
          ? { label: data.name, stroke: accent, width: 2, fill: accent + "26", value: (u, v) => text(v), paths: uPlot.paths.stepped({ align: 1 }), points: { show: false } }
          : { label: data.name, stroke: accent, width: 0, fill: accent, value: (u, v) => text(v), paths: uPlot.paths.bars({ size: [0.7, 60], radius: 0.15 }), points: { show: false } },
        ...(data.before ? [{ label: data.before + " days before", stroke: ink, value: (u, v) => text(v || 0), paths: () => null, points: { show: true, size: 6, width: 1.5, stroke: soft, fill: surface } }] : []),
      ],
      hooks: {
        // With no pointer over it, the legend tells of the last day.
        setCursor: [(u) => { if (u.cursor.idx == null) u.setLegend({ idx: n - 1 }); }],
        setScale: [(u, key) => {
          if (key !== "x") return;
          const from = Math.max(0, Math.round((u.scales.x.min - data.from) / DAY + 0.5)), to = Math.min(n, Math.round((u.scales.x.max - data.from) / DAY + 0.5));
          let sum = 0;
          for (let i = from; i < to; i++) sum += data.values[i];
          said.textContent = to <= from ? "" : day.format(new Date((data.from + from * DAY) * 1000)) + " to " + day.format(new Date((data.from + (to - 1) * DAY) * 1000)) +
            (data.line ? ": from " + text(data.values[from]) + " to " + text(data.values[to - 1]) : ": " + text(sum) + " in all");
          for (const b of bar.querySelectorAll("button")) b.setAttribute("aria-pressed", String(to === n && to - from === Math.min(n, Number(b.dataset.days))));
        }],
      },
    }, [xs, ...series], box);
    show(...range);
    plot.setLegend({ idx: n - 1 });
    box.append(said);
  };
  const show = (from, to) => plot.setScale("x", { min: data.from + (from - 0.5) * DAY, max: data.from + (to - 0.5) * DAY });

  for (const days of [7, 30, 90, 365]) {
    const b = document.createElement("button");
    b.type = "button";
    b.dataset.days = days;
    b.textContent = days === 365 ? "A year" : days + " days";
    b.addEventListener("click", () => { range = [Math.max(0, n - days), n]; show(...range); });
    bar.append(b);
  }
  const hint = document.createElement("span");
  hint.className = "hint";
  hint.textContent = "Drag over the drawing to zoom in.";
  bar.append(hint);

  draw();
  let width = box.clientWidth;
  new ResizeObserver(() => {
    if (box.clientWidth !== width) { width = box.clientWidth; plot.setSize({ width, height: 240 }); }
  }).observe(box);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
}

if (window.uPlot) for (const data of document.querySelectorAll(".zoom-data")) zoomable(data.parentElement);
