const Plotly = require("plotly.js/lib/core"); // has lines and markers
Plotly.register([require("plotly.js/lib/bar"), require("plotly.js/lib/heatmap")]);
module.exports = Plotly;
