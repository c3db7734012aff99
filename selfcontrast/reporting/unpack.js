"use strict";
// What the page carries is compressed, and written in letters that mean nothing to HTML.
async function unpack(id) {
  const bytes = Uint8Array.from(atob(document.getElementById(id).textContent), c => c.charCodeAt(0));
  return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).text();
}

// The page counts as loaded once all is unpacked, so that what prints a page as soon as it is loaded finds something to print.
const hold = document.createElement("iframe");
hold.hidden = true;
document.body.append(hold);
hold.contentDocument.open();
const release = () => hold.remove();
setTimeout(release, 5000);  // whatever goes wrong
