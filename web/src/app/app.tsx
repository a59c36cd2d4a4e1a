// The frame around every page: name, navigation, status, and the messages that come by themselves.
import { Boxes, MessageSquare } from "lucide-react";
import { useEffect, useRef } from "react";
import { useLive } from "../api/context";
import { noticesBetween } from "../api/notices";
import { ChatPage } from "../features/chat/chat-page";
import { ModelsPage } from "../features/models/models-page";
import { Toasts, useToast } from "../ui/toasts";
import { Link, type Page, usePage } from "./router";
import { StatusBar } from "./status-bar";

const TITLES: Record<Page, string> = { models: "Models", chat: "Chat", unknown: "Not found" };

export function App() {
  return (
    <Toasts>
      <Notices />
      <Frame />
    </Toasts>
  );
}

function Frame() {
  const page = usePage();
  const main = useRef<HTMLElement>(null);
  const first = useRef(page);

  useEffect(() => {
    document.title = `${TITLES[page]} · miLLM`;
    // A new page is announced by moving there; the first one is where the reader already is.
    if (first.current !== page) {
      main.current?.focus();
      first.current = page;
    }
  }, [page]);

  return (
    <div className="flex min-h-dvh flex-col">
      <a
        href="#main"
        className="sr-only focus:not-sr-only focus:absolute focus:top-2 focus:left-2 focus:z-30 focus:rounded-lg focus:bg-surface focus:px-3 focus:py-2"
      >
        Skip to content
      </a>
      <header className="sticky top-0 z-20 border-b border-line bg-surface/90 backdrop-blur">
        <div className="mx-auto flex max-w-6xl flex-wrap items-center gap-x-6 gap-y-1.5 px-4 py-2 sm:px-6">
          <Link href="/" className="flex items-center gap-2 font-semibold tracking-tight">
            <img src="/favicon.svg" alt="" className="size-6" />
            miLLM
          </Link>
          <nav aria-label="Pages" className="flex gap-1">
            <Tab href="/models" icon={Boxes} text="Models" current={page === "models"} />
            <Tab href="/chat" icon={MessageSquare} text="Chat" current={page === "chat"} />
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
        {page === "models" && <ModelsPage />}
        {page === "chat" && <ChatPage />}
        {page === "unknown" && <NotFound />}
      </main>
    </div>
  );
}

function Tab(props: { href: string; icon: typeof Boxes; text: string; current: boolean }) {
  const Icon = props.icon;
  return (
    <Link
      href={props.href}
      aria-current={props.current ? "page" : undefined}
      className="flex items-center gap-1.5 rounded-lg px-3 py-1.5 text-sm text-ink-soft hover:bg-sunken hover:text-ink aria-[current=page]:bg-accent-soft aria-[current=page]:font-medium aria-[current=page]:text-accent-strong max-sm:py-2.5"
    >
      <Icon aria-hidden className="size-4" />
      {props.text}
    </Link>
  );
}

function NotFound() {
  return (
    <div className="m-auto flex flex-col items-center gap-2 py-16 text-center">
      <h1 className="text-lg font-semibold">There is no such page</h1>
      <Link href="/" className="text-sm font-medium text-accent underline underline-offset-4">
        To the models
      </Link>
    </div>
  );
}

// Tells what ended while the page was open.
function Notices() {
  const { models, settled } = useLive();
  const toast = useToast();
  const before = useRef<typeof models>(undefined);
  useEffect(() => {
    if (!settled) {
      return;
    }
    for (const notice of noticesBetween(before.current ?? models, models)) {
      toast(notice);
    }
    before.current = models;
  }, [models, settled, toast]);
  return null;
}
