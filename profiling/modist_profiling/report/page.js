"use strict";
// Values under the pointer: each plot's data-hover has x in the plot's own units, a heading and a value a row for each.
const tip = document.getElementById("tip");

function nearest(values, wanted) {
  let best = 0;
  values.forEach((value, index) => {
    if (Math.abs(value - wanted) < Math.abs(values[best] - wanted)) best = index;
  });
  return best;
}

function line(label, value, colour) {
  const row = document.createElement("div");
  const name = document.createElement("span");
  if (colour) {
    const key = document.createElement("span");
    key.className = "key";
    key.style.setProperty("--key", `var(--${colour})`);
    name.append(key);
  }
  name.append(label);
  row.append(name, value);
  return row;
}

function place(event) {
  const box = tip.getBoundingClientRect();
  const right = event.clientX + 16 + box.width < document.documentElement.clientWidth;
  const left = right ? event.clientX + 16 : event.clientX - 16 - box.width;
  const below = event.clientY + 16 + box.height < window.innerHeight;
  tip.style.left = `${Math.max(4, left)}px`;
  tip.style.top = `${Math.max(4, below ? event.clientY + 16 : event.clientY - 16 - box.height)}px`;
}

for (const plot of document.querySelectorAll("svg[data-hover]")) {
  const hover = JSON.parse(plot.dataset.hover);
  const cursor = plot.querySelector(".cursor");
  plot.addEventListener("pointermove", (event) => {
    const box = plot.getBoundingClientRect();
    const at = nearest(hover.x, ((event.clientX - box.left) / box.width) * plot.viewBox.baseVal.width);
    cursor.setAttribute("transform", `translate(${hover.x[at]} 0)`);
    cursor.setAttribute("visibility", "visible");
    tip.replaceChildren(line(hover.at[at], ""), ...hover.rows.map(([label, colour, values]) => line(label, values[at], colour)));
    tip.hidden = false;
    place(event);
  });
  plot.addEventListener("pointerleave", () => {
    cursor.setAttribute("visibility", "hidden");
    tip.hidden = true;
  });
}
