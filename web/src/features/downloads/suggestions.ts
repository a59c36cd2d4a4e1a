// Repositories whose names hold what is being typed. Quiet: without an answer there is nothing to suggest.
import { useEffect, useState } from "react";
import { useClients } from "../../api/context";
import type { FoundRepo } from "../../gen/millm/downloader/v1/downloader_pb";
import { repoIdIn } from "./draft";

// Between the last key and the question.
export const DEBOUNCE_MS = 250;
const LEAST_CHARACTERS = 2;
const MOST_CHARACTERS = 200;
const MOST_SUGGESTIONS = 8;

interface Found {
  query: string;
  repos: FoundRepo[];
}

const NOTHING: Found = { query: "", repos: [] };

// What to look for in what was typed; "" for nothing.
export function searchText(typed: string): string {
  const text = repoIdIn(typed);
  const fits = text.length >= LEAST_CHARACTERS && text.length <= MOST_CHARACTERS && !text.includes("://");
  return fits ? text : "";
}

// An answer to an earlier question counts only as far as it still fits.
export function fitting({ query, repos }: Found, wanted: string): FoundRepo[] {
  if (wanted === "" || query === "" || !wanted.startsWith(query)) {
    return [];
  }
  if (wanted === query) {
    return repos;
  }
  return repos.filter((repo) => repo.repoId.toLowerCase().includes(wanted.toLowerCase()));
}

export function useSuggestions(wanted: string): FoundRepo[] {
  const { downloader } = useClients();
  const [found, setFound] = useState(NOTHING);
  useEffect(() => {
    if (wanted === "") {
      return;
    }
    const left = new AbortController();
    const timer = setTimeout(async () => {
      try {
        const { repos } = await downloader.searchRepos(
          { query: wanted, limit: MOST_SUGGESTIONS },
          { signal: left.signal },
        );
        if (!left.signal.aborted) {
          setFound({ query: wanted, repos });
        }
      } catch {
        // A hub that does not answer is told of when something is asked of it in earnest.
        if (!left.signal.aborted) {
          setFound(NOTHING);
        }
      }
    }, DEBOUNCE_MS);
    return () => {
      clearTimeout(timer);
      left.abort();
    };
  }, [downloader, wanted]);
  return fitting(found, wanted);
}
