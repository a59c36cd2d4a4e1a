// The address bar: which page it names, and links that change it without loading anything.
import { type ComponentProps, type MouseEvent, useSyncExternalStore } from "react";

export type Page = "models" | "chat" | "unknown";

export function pageAt(path: string): Page {
  switch (path.replace(/\/+$/, "")) {
    case "":
    case "/models":
      return "models";
    case "/chat":
      return "chat";
    default:
      return "unknown";
  }
}

const CHANGED = "millm:navigated";

export function navigate(path: string) {
  if (path !== location.pathname) {
    history.pushState(null, "", path);
    window.scrollTo(0, 0);
  }
  window.dispatchEvent(new Event(CHANGED));
}

export function usePage(): Page {
  return useSyncExternalStore(listen, () => pageAt(location.pathname));
}

function listen(changed: () => void): () => void {
  window.addEventListener("popstate", changed);
  window.addEventListener(CHANGED, changed);
  return () => {
    window.removeEventListener("popstate", changed);
    window.removeEventListener(CHANGED, changed);
  };
}

export function Link({ href, ...rest }: ComponentProps<"a"> & { href: string }) {
  const follow = (event: MouseEvent) => {
    // A new tab or window is the browser's business.
    if (event.button === 0 && !event.metaKey && !event.ctrlKey && !event.shiftKey && !event.altKey) {
      event.preventDefault();
      navigate(href);
    }
  };
  return <a href={href} onClick={follow} {...rest} />;
}
