const further = document.getElementById("further");
if (further) {
  const strips = JSON.parse(document.getElementById("further-strips").textContent);
  const place = document.getElementById("further-strip");
  const follow = () => { // what the table's filter hides is faint, as in the other strips
    const off = new Set([...document.querySelectorAll("table.study tr.off")].map((row) => row.dataset.row));
    place.querySelectorAll("[data-row]").forEach((point) => point.classList.toggle("off", off.has(point.dataset.row)));
  };
  const draw = () => {
    place.replaceChildren();
    if (further.value === "") return;
    const figure = document.createElement("figure"), caption = document.createElement("figcaption");
    figure.className = "strip";
    caption.textContent = `${further.selectedOptions[0].textContent} (ppb)`;
    figure.innerHTML = strips[further.value];
    figure.prepend(caption);
    place.append(figure);
    follow();
  };
  further.addEventListener("change", draw);
  document.getElementById("words").addEventListener("input", follow);
  document.getElementById("word").addEventListener("change", follow);
  draw();
}
