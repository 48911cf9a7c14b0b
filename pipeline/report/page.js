// Each picture is stored once and shown wherever its sample appears.
const pictures = embedded("pictures");
for (const image of document.querySelectorAll("img[data-picture]")) {
  image.src = pictures[Number(image.dataset.picture)];
}

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

const data = embedded("data");
sampleTable(data.samples, pictures, data.scenes);
costProjection(data.costs);

// A source's cameras are drawn once they come near, and again when another sample is chosen.
const nearby = new IntersectionObserver((entries) => {
  for (const { target, isIntersecting } of entries) {
    if (!isIntersecting) continue;
    nearby.unobserve(target);
    target.view = cameraView(target, data.scenes[Number(target.dataset.first)]);
  }
}, { rootMargin: "400px" });
for (const box of document.querySelectorAll(".camera-view[data-first]")) nearby.observe(box);
for (const button of document.querySelectorAll("button[data-scene]")) {
  button.addEventListener("click", () => {
    const group = button.closest(".scenes");
    const box = group.querySelector(".camera-view");
    nearby.unobserve(box);
    if (box.view) box.view.stop();
    box.view = cameraView(box, data.scenes[Number(button.dataset.scene)]);
    for (const each of group.querySelectorAll("button[data-scene]")) each.setAttribute("aria-pressed", String(each === button));
  });
}
