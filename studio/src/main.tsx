import { render } from "preact";

import { App } from "./app";
import "./styles.css";

// A file dropped outside a drop area must not replace the page.
for (const name of ["dragover", "drop"]) addEventListener(name, (event) => event.preventDefault());

const root = document.getElementById("app");
if (root) render(<App />, root);
