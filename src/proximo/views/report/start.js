"use strict";
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
build();
if (data.live) connect();
