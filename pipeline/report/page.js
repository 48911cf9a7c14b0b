"use strict";
// Each picture is stored once and shown wherever its sample appears.
const pictures = JSON.parse(document.getElementById("pictures").textContent);
for (const image of document.querySelectorAll("img[data-picture]")) {
  image.src = pictures[Number(image.dataset.picture)];
}

// The button overrides the system's light or dark for this visit.
const root = document.documentElement;
const dark = window.matchMedia("(prefers-color-scheme: dark)");
document.getElementById("theme").addEventListener("click", () => {
  const now = root.dataset.theme || (dark.matches ? "dark" : "light");
  root.dataset.theme = now === "dark" ? "light" : "dark";
});

// A picture opens large; Escape or a click closes it.
const viewer = document.getElementById("viewer");
document.addEventListener("click", (event) => {
  const image = event.target.closest("img[data-picture]");
  if (image && !viewer.contains(image)) {
    viewer.querySelector("img").src = image.src;
    viewer.querySelector("p").textContent = image.alt;
    viewer.showModal();
  } else if (viewer.open && event.target.closest("#viewer")) {
    viewer.close();
  }
});
