"use strict";
// Zooms all lanes of a timeline at once, reads them at the pointer, and opens the trace that a click leads to.
for (const timeline of document.querySelectorAll(".timeline")) {
  const data = JSON.parse(timeline.querySelector(".timeline-data").textContent);
  const lanes = [...timeline.querySelectorAll("svg.x")];
  const axis = timeline.querySelector(".axis"), readout = timeline.querySelector(".readout");
  const shortest = Math.min(data.length, Math.max(data.bin / 20, 0.01));
  let from = 0, until = data.length, pressed = null, dragged = false;
  timeline.querySelector(".tools").hidden = false;

  const hair = timeline.appendChild(document.createElement("div"));
  hair.className = "hair";
  const chosen = timeline.appendChild(document.createElement("div"));
  chosen.className = "chosen";
  hair.hidden = chosen.hidden = true;

  const digits = () => Math.min(6, Math.max(0, Math.ceil(3 - Math.log10(until - from))));
  const shown = (ms) => (ms / 1000).toFixed(digits()).replace(/(\.\d*?)0+$/, "$1").replace(/\.$/, "") + " s";

  function show(a, b) {
    const length = Math.min(Math.max(b - a, shortest), data.length);
    from = Math.min(Math.max(a, 0), data.length - length);
    until = from + length;
    for (const lane of lanes) {
      lane.setAttribute("viewBox", `${from} 0 ${length} ${lane.viewBox.baseVal.height}`);
    }
    let step = 10 ** Math.floor(Math.log10(length / 6));
    step *= length / step > 30 ? 5 : length / step > 12 ? 2 : 1;
    axis.replaceChildren();
    for (let at = Math.ceil(from / step) * step; at <= until; at += step) {
      const tick = axis.appendChild(document.createElement("span"));
      tick.style.left = `${100 * (at - from) / length}%`;
      tick.textContent = shown(at);
    }
  }

  function zoom(factor, around = (from + until) / 2) {
    show(around - (around - from) * factor, around + (until - around) * factor);
  }

  function place(event) {
    const box = axis.getBoundingClientRect();
    const share = Math.min(Math.max((event.clientX - box.left) / box.width, 0), 1);
    return { x: box.left + share * box.width - timeline.getBoundingClientRect().left, at: from + share * (until - from) };
  }

  function read(at) {
    const bin = Math.min(Math.floor(at / data.bin), data.sent.length - 1);
    const parts = [`${shown(at)}: ${data.sent[bin] ?? 0} sent`];
    for (const [kind, counts] of Object.entries(data.lost)) {
      if (counts[bin]) parts.push(`${counts[bin]} ${kind}`);
    }
    const near = (until - from) / 100;
    const event = data.events.filter((each) => Math.abs(each[0] - at) < near)
      .sort((a, b) => Math.abs(a[0] - at) - Math.abs(b[0] - at))[0];
    readout.textContent = parts.join(", ") + (event ? ` · ${event[1]}` : "");
  }

  timeline.addEventListener("pointermove", (event) => {
    if (!event.target.closest(".over, .hair, .chosen") && pressed === null) { hair.hidden = true; return; }
    const { x, at } = place(event);
    hair.hidden = false;
    hair.style.left = `${x}px`;
    read(at);
    if (pressed !== null) {
      chosen.hidden = false;
      chosen.style.left = `${Math.min(x, pressed.x)}px`;
      chosen.style.width = `${Math.abs(x - pressed.x)}px`;
    }
  });
  timeline.addEventListener("pointerleave", () => { hair.hidden = true; });
  timeline.addEventListener("pointerdown", (event) => {
    if (event.pointerType === "mouse" && event.button === 0 && event.target.closest(".over")) pressed = place(event);
  });
  window.addEventListener("pointerup", (event) => {
    if (pressed === null) return;
    const { x, at } = place(event);
    if (Math.abs(x - pressed.x) > 6) {
      show(Math.min(at, pressed.at), Math.max(at, pressed.at));
      dragged = true;
      setTimeout(() => { dragged = false; });
    }
    pressed = null;
    chosen.hidden = true;
  });
  timeline.addEventListener("click", (event) => {
    if (dragged) { event.preventDefault(); event.stopPropagation(); }
  }, { capture: true });
  timeline.addEventListener("dblclick", () => show(0, data.length));
  timeline.addEventListener("dragstart", (event) => event.preventDefault());
  timeline.addEventListener("wheel", (event) => {
    if (!event.ctrlKey && !event.metaKey) return;
    event.preventDefault();
    zoom(event.deltaY > 0 ? 1.25 : 0.8, place(event).at);
  }, { passive: false });
  timeline.addEventListener("keydown", (event) => {
    const length = until - from;
    const acts = {
      ArrowLeft: () => show(from - length / 4, until - length / 4), ArrowRight: () => show(from + length / 4, until + length / 4),
      "+": () => zoom(0.5), "-": () => zoom(2), 0: () => show(0, data.length),
    };
    if (acts[event.key] && event.target === timeline) { event.preventDefault(); acts[event.key](); }
  });
  timeline.addEventListener("click", (event) => {
    const how = event.target.dataset?.zoom;
    if (how === "in") zoom(0.5);
    if (how === "out") zoom(2);
    if (how === "all") show(0, data.length);
  });
}

// A trace that a link leads to is folded: open it.
function openTarget() {
  const found = location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (found && found.tagName === "DETAILS") { found.open = true; found.scrollIntoView({ block: "start" }); }
}
window.addEventListener("hashchange", openTarget);
document.addEventListener("click", (event) => {
  const link = event.target.closest("a[href^='#']");
  if (link && link.getAttribute("href") === location.hash) openTarget();
});
openTarget();
