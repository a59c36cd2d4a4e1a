// Where the page starts: one connection to the server that sent it, one cache of what it says, one app.
import { StrictMode } from "react";
import { createRoot } from "react-dom/client";
import { ErrorBoundary } from "react-error-boundary";
import { BrowserRouter } from "react-router";
import { clientsOver, transportTo } from "../api/clients";
import { ApiProvider } from "../api/context";
import { watchedFeeds, whileVisible } from "../api/feeds";
import { followLive } from "../api/live";
import { createQueries } from "../api/queries";
import { sharedFeeds } from "../api/shared-feeds";
import { loadAhead } from "../ui/lazily";
import { notify } from "../ui/toasts";
import { App } from "./app";
import { Failed } from "./page";
import "./styles.css";

const root = document.getElementById("root");
if (!root) {
  throw new Error("index.html has no #root");
}

const transport = transportTo(location.origin);
const queries = createQueries(({ message }) => void notify({ tone: "error", text: message }));
followLive(queries, sharedFeeds(whileVisible(watchedFeeds(clientsOver(transport)), document)));

createRoot(root).render(
  <StrictMode>
    <ErrorBoundary FallbackComponent={Failed}>
      <ApiProvider transport={transport} queries={queries}>
        <BrowserRouter>
          <App />
        </BrowserRouter>
      </ApiProvider>
    </ErrorBoundary>
  </StrictMode>,
);

// After the first page has been shown.
setTimeout(loadAhead, 1_000);
