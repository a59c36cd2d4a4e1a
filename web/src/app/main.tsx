// Where the page starts: one connection to the server that sent it, one picture of it, one app.
import { StrictMode } from "react";
import { createRoot } from "react-dom/client";
import { clientsAt } from "../api/clients";
import { ApiProvider } from "../api/context";
import { createLive } from "../api/live";
import { App } from "./app";
import "./styles.css";

const root = document.getElementById("root");
if (!root) {
  throw new Error("index.html has no #root");
}

const clients = clientsAt(location.origin);
const live = createLive(clients);
live.start(document);

createRoot(root).render(
  <StrictMode>
    <ApiProvider api={{ clients, live }}>
      <App />
    </ApiProvider>
  </StrictMode>,
);
