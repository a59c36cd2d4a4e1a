// Repositories whose names hold what is being typed. Quiet: without an answer there is nothing to suggest, and a hub
// that does not answer is told of when something is asked of it in earnest.
import { skipToken, useQuery } from "@connectrpc/connect-query";
import { keepPreviousData } from "@tanstack/react-query";
import { DownloaderService, type FoundRepo } from "../../gen/millm/downloader/v1/downloader_pb";
import { useDebounced } from "../../ui/use-debounced";
import { repoIdIn } from "./draft";

// How long an answer serves again without a question.
const FRESH_MS = 60_000;
const LEAST_CHARACTERS = 2;
const MOST_CHARACTERS = 200;
const MOST_SUGGESTIONS = 8;

// What to look for in what was typed; "" for nothing.
export function searchText(typed: string): string {
  const text = repoIdIn(typed);
  const fits = text.length >= LEAST_CHARACTERS && text.length <= MOST_CHARACTERS && !text.includes("://");
  return fits ? text : "";
}

// An answer to an earlier question counts only as far as it still fits.
export function fitting(repos: readonly FoundRepo[], wanted: string): FoundRepo[] {
  const part = wanted.toLowerCase();
  return part === "" ? [] : repos.filter((repo) => repo.repoId.toLowerCase().includes(part));
}

export function useSuggestions(wanted: string): readonly FoundRepo[] {
  const asked = useDebounced(wanted);
  const { data, isPlaceholderData } = useQuery(
    DownloaderService.method.searchRepos,
    asked === "" ? skipToken : { query: asked, limit: MOST_SUGGESTIONS },
    { placeholderData: keepPreviousData, staleTime: FRESH_MS },
  );
  const repos = data?.repos ?? [];
  return wanted !== "" && asked === wanted && !isPlaceholderData ? repos : fitting(repos, wanted);
}
