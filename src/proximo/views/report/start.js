"use strict";
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", recolour);
build();
if (data.live) connect();
