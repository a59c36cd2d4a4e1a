// Where the page starts: one connection to the server that sent it, one picture of it, one app.
import { StrictMode } from "react";
import { createRoot } from "react-dom/client";
import { clientsAt } from "../api/clients";
import { ApiProvider } from "../api/context";
import { watchedFeeds, whileVisible } from "../api/feeds";
import { createLive } from "../api/live";
import { sharedFeeds } from "../api/shared-feeds";
import { App } from "./app";
import "./styles.css";

const root = document.getElementById("root");
if (!root) {
  throw new Error("index.html has no #root");
}

const clients = clientsAt(location.origin);
const live = createLive();
live.follow(sharedFeeds(whileVisible(watchedFeeds(clients), document)));

createRoot(root).render(
  <StrictMode>
    <ApiProvider api={{ clients, live }}>
      <App />
    </ApiProvider>
  </StrictMode>,
);
