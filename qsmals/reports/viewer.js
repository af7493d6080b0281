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
    for (const kind of ["click", "mousemove"]) canvas.addEventListener(kind, say);
    addEventListener("load", () => setTimeout(say, 0));
    setTimeout(say, 300);
  });
})();
