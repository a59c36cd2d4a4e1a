// The frame around every page: name, navigation, status, and the messages that come by themselves.
import { Boxes, Database, Layers, MessageSquare } from "lucide-react";
import { Suspense, useEffect, useRef } from "react";
import { Link, Route, Routes, useLocation, useNavigationType } from "react-router";
import { useLive, useToldExtractions } from "../api/context";
import { extractionNotices, noticesBetween } from "../api/notices";
import { lazily } from "../ui/lazily";
import { notify, Toasts } from "../ui/toasts";
import { NotFoundPage } from "./not-found-page";
import { Page } from "./page";
import { StatusBar } from "./status-bar";

const ModelsPage = lazily(() => import("../features/models/models-page"), "ModelsPage");
const ModelPage = lazily(() => import("../features/architecture/model-page"), "ModelPage");
const DatasetsPage = lazily(() => import("../features/datasets/datasets-page"), "DatasetsPage");
const ExtractionsPage = lazily(() => import("../features/extractions/extractions-page"), "ExtractionsPage");
const ExtractionPage = lazily(() => import("../features/extractions/extraction-page"), "ExtractionPage");
const ChatPage = lazily(() => import("../features/chat/chat-page"), "ChatPage");

export function App() {
  return (
    <>
      <Notices />
      <Frame />
      <Toasts />
    </>
  );
}

function Frame() {
  const { pathname } = useLocation();
  const navigation = useNavigationType();
  const main = useRef<HTMLElement>(null);
  const seen = useRef(pathname);

  useEffect(() => {
    // A new page is announced by moving there; the first one is where the reader already is.
    if (seen.current === pathname) {
      return;
    }
    seen.current = pathname;
    if (navigation !== "POP") {
      window.scrollTo(0, 0);
    }
    main.current?.focus();
  }, [pathname, navigation]);

  return (
    <div className="flex min-h-dvh flex-col">
      <a
        href="#main"
        className="sr-only focus:not-sr-only focus:absolute focus:top-2 focus:left-2 focus:z-30 focus:rounded-lg focus:bg-surface focus:px-3 focus:py-2"
      >
        Skip to content
      </a>
      <header className="sticky top-0 z-20 border-b border-line bg-surface/90 backdrop-blur">
        <div className="mx-auto flex max-w-6xl flex-wrap items-center gap-x-6 gap-y-1.5 px-4 max-sm:gap-x-3 py-2 sm:px-6">
          <Link to="/" className="flex items-center gap-2 font-semibold tracking-tight">
            <img src="/favicon.svg" alt="" className="size-6" />
            <span className="max-sm:sr-only">miLLM</span>
          </Link>
          <nav aria-label="Pages" className="flex gap-1 max-sm:gap-0">
            <Tab to="/models" icon={Boxes} text="Models" />
            <Tab to="/chat" icon={MessageSquare} text="Chat" />
            <Tab to="/datasets" icon={Database} text="Datasets" />
            <Tab to="/extractions" icon={Layers} text="Extractions" />
          </nav>
          <div className="min-w-0 sm:ml-auto max-sm:w-full">
            <StatusBar />
          </div>
        </div>
      </header>
      <main
        id="main"
        ref={main}
        tabIndex={-1}
        className="mx-auto flex w-full max-w-6xl flex-1 flex-col px-4 py-5 outline-none sm:px-6 sm:py-6"
      >
        <Suspense>
          <Routes>
            {["/", "/models"].map((path) => (
              <Route key={path} path={path} element={<Page title="Models" of={ModelsPage} />} />
            ))}
            <Route path="/models/:id" element={<Page title="Model" of={ModelPage} />} />
            <Route path="/datasets" element={<Page title="Datasets" of={DatasetsPage} />} />
            <Route path="/extractions" element={<Page title="Extractions" of={ExtractionsPage} />} />
            <Route path="/extractions/:id" element={<Page title="Extraction" of={ExtractionPage} />} />
            <Route path="/chat" element={<Page title="Chat" of={ChatPage} />} />
            <Route path="*" element={<Page title="Not found" of={NotFoundPage} />} />
          </Routes>
        </Suspense>
      </main>
    </div>
  );
}

function Tab({ to, icon: Icon, text }: { to: string; icon: typeof Boxes; text: string }) {
  const { pathname } = useLocation();
  // The models are also what the bare address shows.
  const here = pathname.replace(/\/+$/, "") || "/models";
  return (
    <Link
      to={to}
      aria-current={here === to ? "page" : here.startsWith(`${to}/`) ? "true" : undefined}
      className="flex items-center gap-1.5 rounded-lg px-3 py-1.5 text-sm text-ink-soft hover:bg-sunken hover:text-ink aria-[current]:bg-accent-soft aria-[current]:font-medium aria-[current]:text-accent-strong max-sm:px-2 max-sm:py-2.5"
    >
      <Icon aria-hidden className="size-4 max-sm:hidden" />
      {text}
    </Link>
  );
}

// Tells what ended while the page was open.
function Notices() {
  const { models, settled } = useLive();
  const extractions = useToldExtractions();
  const before = useRef<typeof models>(undefined);
  const told = useRef(extractions);
  useEffect(() => {
    if (!settled) {
      return;
    }
    for (const notice of noticesBetween(before.current ?? models, models)) {
      void notify(notice);
    }
    before.current = models;
  }, [models, settled]);
  useEffect(() => {
    for (const notice of extractionNotices(told.current, extractions)) {
      void notify(notice);
    }
    told.current = extractions;
  }, [extractions]);
  return null;
}
