"use strict";
// The regions' slider, the scale, and what lies under the cross; the planes themselves are nilearn's.
(() => {
  const map = JSON.parse(document.getElementById("map-data").textContent);
  const [nx, ny, nz] = map.shape, size = nx * ny * nz;
  const legend = document.getElementById("legend"), at = document.getElementById("at");
  const slider = document.querySelector("input.slider"), canvas = document.querySelector("canvas");
  if (slider) {
    const label = slider.parentElement.querySelector("p");
    if (label) label.textContent = "Regions";
    slider.value = map.opacity;
    slider.setAttribute("aria-label", "Opacity of the regions, percent");
    slider.parentElement.append(legend);
  }
  // On a phone the planes stand one below the other: copies of the drawn one, which lies outside of the page.
  const frame = document.createElement("div"), stack = document.createElement("div");
  const copies = [..."XYZ"].map(() => document.createElement("canvas"));
  frame.id = "drawn";
  stack.id = "stacked";
  frame.style.setProperty("--share", (2 * nx + ny) / ny);
  stack.append(...copies);
  canvas.before(frame);
  frame.append(canvas);
  frame.after(stack);
  const follow = () => {
    const brain = window.shownMap;
    const left = (n) => [0, brain.widthCanvas.X, brain.widthCanvas.X + brain.widthCanvas.Y][n];
    const copy = () => copies.forEach((plane, n) => {
      plane.width = brain.widthCanvas["XYZ"[n]];
      plane.height = canvas.height;
      plane.getContext("2d").drawImage(canvas, -left(n), 0);
    });
    const drawAll = brain.drawAll;
    brain.drawAll = () => { drawAll(); copy(); };
    copies.forEach((plane, n) => {
      const move = (event) => {
        const from = plane.getBoundingClientRect(), to = canvas.getBoundingClientRect(), shrunk = plane.width / from.width;
        brain.clickBrain({
          clientX: to.left + left(n) + Math.min(Math.max((event.clientX - from.left) * shrunk, 1), plane.width - 1),
          clientY: to.top + (event.clientY - from.top) * shrunk,
        });
        canvas.dispatchEvent(new Event("moved"));
      };
      plane.addEventListener("click", move);
      plane.addEventListener("mousemove", (event) => { if (event.buttons) move(event); });
    });
    brain.init();
    brain.drawAll();
  };
  const packed = Uint8Array.from(atob(map.packed), (letter) => letter.charCodeAt(0));
  new Response(new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"))).arrayBuffer().then((buffer) => {
    const values = new Int16Array(buffer, 0, size), regions = new Uint16Array(buffer, 2 * size, size);
    const say = () => {
      if (!window.shownMap) return;
      const { X, Y, Z } = window.shownMap.numSlice, place = (X * ny + Y) * nz + Z;
      const name = map.names[regions[place]] || "no region";
      const mm = [X, Y, Z].map((n, axis) => Math.round(map.corner_mm[axis] + n * map.edge_mm));
      const found = values[place] === map.outside ? "outside the map" : `${name}: ${values[place]} ppb`;
      at.textContent = `${found}, at ${mm.join(", ")} mm`.replaceAll("-", "−");
    };
    for (const kind of ["click", "mousemove", "moved"]) canvas.addEventListener(kind, say);
    addEventListener("load", () => setTimeout(say, 0));
    setTimeout(say, 300);
  });
  const wait = () => (window.shownMap ? follow() : setTimeout(wait, 50));
  wait();
})();
