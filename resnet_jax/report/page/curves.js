"use strict";
// Error and other curves over iterations, and final error over depth.
(function () {
  const { data, $, text, config, layout, colour, faint, checked } = page;
  const seen = new Set(data.groups.map((g) => g.family + g.depth));
  data.repeated = seen.size < data.groups.length;

  function smooth(values, width) {
    if (width < 1) return values;
    return values.map((value, i) => {
      if (value === null) return null;
      // As far on either side as the ends allow, so that the ends themselves stay.
      const reach = Math.min(width, i, values.length - 1 - i);
      let sum = 0, count = 0;
      for (let j = i - reach; j <= i + reach; j++) {
        if (values[j] !== null) { sum += values[j]; count++; }
      }
      return sum / count;
    });
  }

  const shownGroups = new Set(data.groups.keys());
  const shownRuns = new Set(data.runs.keys());
  
  function traces(family, metric, width) {
    const made = [];
    data.groups.forEach((group, g) => {
      if (group.family !== family || !shownGroups.has(g)) return;
      for (const split of ["train", "val", "test"]) {
        if (!checked("show-" + split)) continue;
        const key = split + "/" + metric;
        const dash = { train: "dash", val: "dot", test: "solid" }[split];
        const base = {
          type: "scatter", mode: "lines", legendgroup: group.label, showlegend: false,
          connectgaps: false,
        };
        const curve = group.curves[key];
        if (checked("show-mean") && curve) {
          if (curve.low) {
            made.push({
              ...base, x: curve.x.concat(curve.x.slice().reverse()),
              y: smooth(curve.high, width).concat(smooth(curve.low, width).slice().reverse()),
              fill: "toself", fillcolor: faint(colour(group), 0.16), line: { width: 0 },
              hoverinfo: "skip", kind: "band",
            });
          }
          made.push({
            ...base, x: curve.x, y: smooth(curve.y, width), kind: "mean",
            name: text(group.label + ", " + split + ", mean of " + group.n),
            line: { color: colour(group), dash, width: split === "train" ? 1.4 : 2.4 },
          });
        }
        for (const r of group.runs) {
          const run = data.runs[r];
          const alone = run.state !== "completed";
          if (!shownRuns.has(r) || !run.curves[key] || !(alone || checked("show-seeds"))) continue;
          made.push({
            ...base, x: run.curves[key].x, y: smooth(run.curves[key].y, width), kind: "seed",
            name: text(run.name + ", " + split + (alone ? ", " + run.state : "")),
            line: { color: colour(group), dash: alone ? "dashdot" : dash, width: 1 },
            opacity: alone ? 1 : 0.65,
          });
        }
      }
    });
    return made;
  }

  function highest(all) {
    let top = 0;
    for (const trace of all) {
      const from = trace.x.length ? 0.05 * Math.max(...trace.x) : 0;
      trace.y.forEach((y, i) => { if (y !== null && trace.x[i] > from && y > top) top = y; });
    }
    return top;
  }

  function drawCurves() {
    const metric = $("metric").value, width = Number($("smoothing").value);
    $("smoothing-value").textContent = width ? "\u00b1" + width + " points" : "off";
    const sets = Object.keys(data.families)
      .filter((family) => $("curves-" + family))
      .map((family) => [family, traces(family, metric, width)]);
    const log = checked("log");
    let top = 1.05 * Math.max(...sets.map(([, all]) => highest(all)));
    if (metric === "error") top = Math.min(top, 100);
    for (const [family, all] of sets) {
      const yaxis = { title: { text: data.metrics[metric] }, rangemode: "tozero" };
      if (log) yaxis.type = "log";
      else if (top > 0) yaxis.range = [0, top];
      Plotly.react($("curves-" + family), all, layout({
        title: { text: data.families[family], font: { size: 14 }, x: 0.02, xanchor: "left" },
        xaxis: { title: { text: "iteration" }, rangemode: "tozero" }, yaxis,
      }), config);
    }
  }

  // Where labels differ in more than family and depth, each has a place of its own.
  const place = (g) => (data.repeated ? text(g.label) : String(g.depth));

  function drawDepths() {
    if (!$("depths")) return;
    const made = [];
    const looks = { plain: ["square", 1, "dash"], residual: ["circle", 0, "solid"] };
    for (const family of Object.keys(data.families)) {
      for (const split of ["train", "test"]) {
        const there = data.groups.filter((g) => g.family === family && g.final[split]);
        if (!there.length) continue;
        const [symbol, index, dash] = looks[family];
        const palette = page.palette();
        made.push({
          type: "scatter", mode: there.length > 1 && !data.repeated ? "lines+markers" : "markers",
          name: family + ", " + (split === "train" ? "training" : "test"),
          x: there.map(place), y: there.map((g) => g.final[split].mean),
          text: there.map((g) => text(g.label + ", n = " + g.n + (g.band ? ", " + g.band : ""))),
          error_y: {
            type: "data", array: there.map((g) => g.final[split].high),
            arrayminus: there.map((g) => g.final[split].low), thickness: 1.2,
          },
          marker: { symbol: split === "train" ? symbol + "-open" : symbol, size: 9 },
          line: { color: palette[index], dash, width: split === "train" ? 1.2 : 2 },
        });
        made[made.length - 1].marker.color = palette[index];
      }
    }
    const sorted = data.groups.slice().sort((a, b) => a.depth - b.depth);
    const places = [...new Set(sorted.map(place))];
    Plotly.react($("depths"), made, layout({
      xaxis: {
        type: "category", categoryorder: "array", categoryarray: places,
        title: { text: data.repeated ? "label" : "depth (layers)" },
      },
      yaxis: { title: { text: "final error (%)" }, rangemode: "tozero" },
    }), config);
  }

  function controls() {
    const box = $("groups");
    data.groups.forEach((group, g) => {
      const item = document.createElement("span");
      item.className = "group";
      const label = document.createElement("label");
      const input = document.createElement("input");
      input.type = "checkbox";
      input.checked = true;
      input.dataset.group = g;
      input.addEventListener("change", () => {
        if (input.checked) shownGroups.add(g); else shownGroups.delete(g);
        drawCurves();
      });
      const swatch = document.createElement("span");
      swatch.className = "swatch";
      swatch.dataset.swatch = g;
      const note = group.diverged ? ", " + group.diverged + " diverged" : "";
      label.append(input, swatch, group.label + (group.n ? " (n = " + group.n + note + ")" : note));
      const seeds = document.createElement("span");
      seeds.className = "seeds";
      for (const r of group.runs) {
        const one = document.createElement("label");
        const tick = document.createElement("input");
        tick.type = "checkbox";
        tick.checked = true;
        tick.dataset.run = r;
        tick.addEventListener("change", () => {
          if (tick.checked) shownRuns.add(r); else shownRuns.delete(r);
          drawCurves();
        });
        one.append(tick, "seed " + data.runs[r].seed);
        seeds.append(one);
      }
      item.append(label, seeds);
      box.append(item);
    });
    for (const id of ["show-train", "show-val", "show-test", "show-mean", "show-seeds", "log"]) {
      $(id).addEventListener("change", () => { seedBoxes(); drawCurves(); });
    }
    $("metric").addEventListener("change", drawCurves);
    $("smoothing").addEventListener("input", drawCurves);
    for (const [id, value] of [["all", true], ["none", false]]) {
      $(id).addEventListener("click", () => {
        document.querySelectorAll("[data-group]").forEach((input) => {
          input.checked = value;
          if (value) shownGroups.add(Number(input.dataset.group)); else shownGroups.clear();
        });
        drawCurves();
      });
    }
    seedBoxes();
  }

  function seedBoxes() {
    document.querySelectorAll(".seeds").forEach((box) => {
      box.style.display = checked("show-seeds") ? "" : "none";
    });
  }

  if ($("metric")) controls();
  page.draws.push(() => {
    document.querySelectorAll("[data-swatch]").forEach((swatch) => {
      swatch.style.background = colour(data.groups[Number(swatch.dataset.swatch)]);
    });
    if ($("metric")) drawCurves();
    drawDepths();
  });
})();
