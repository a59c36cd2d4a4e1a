// The repository's field, with suggestions from the hub while one types: a combobox with a list
// (https://www.w3.org/WAI/ARIA/apg/patterns/combobox). The focus stays in the field; what was typed stays, too,
// unless a suggestion is taken.
import { type KeyboardEvent, type RefObject, useEffect, useId, useState } from "react";
import { type FoundRepo, FoundRepo_Support } from "../../gen/millm/downloader/v1/downloader_pb";
import { formatCount, plural } from "../../ui/format";
import { searchText, useSuggestions } from "./suggestions";

interface Props {
  control: { id: string; "aria-invalid"?: boolean; "aria-describedby"?: string };
  inputRef: RefObject<HTMLInputElement | null>;
  value: string;
  onChange(value: string): void;
}

export function RepoInput({ control, inputRef, value, onChange }: Props) {
  const listId = useId();
  const [wanted, setWanted] = useState(false);
  const [active, setActive] = useState(-1);
  const text = wanted ? searchText(value) : "";
  const repos = useSuggestions(text);
  const isThere = repos.length === 1 && repos[0]?.repoId === text;
  const shown = isThere ? [] : repos;
  const open = shown.length > 0;
  const current = shown[active];
  const optionId = (index: number) => `${listId}-${index}`;

  useEffect(() => {
    if (active >= 0) {
      document.getElementById(`${listId}-${active}`)?.scrollIntoView?.({ block: "nearest" });
    }
  }, [active, listId]);

  function close() {
    setWanted(false);
    setActive(-1);
  }

  function take(repo: FoundRepo) {
    onChange(repo.repoId);
    close();
  }

  function press(event: KeyboardEvent) {
    // Keys of an input method that is composing are its own.
    if (event.nativeEvent.isComposing) {
      return;
    }
    if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      event.preventDefault();
      setWanted(true);
      if (open) {
        setActive(step(active, event.key === "ArrowDown" ? 1 : -1, shown.length));
      }
    } else if (event.key === "Enter" && current) {
      event.preventDefault();
      take(current);
    } else if (event.key === "Escape" && open) {
      event.preventDefault();
      event.stopPropagation();
      close();
    }
  }

  return (
    <div className="relative">
      <input
        {...control}
        ref={inputRef}
        data-testid="repo-input"
        className="field font-mono"
        placeholder="e.g., google/gemma-2-2b"
        autoComplete="off"
        autoCapitalize="off"
        spellCheck={false}
        role="combobox"
        aria-autocomplete="list"
        aria-expanded={open}
        aria-controls={listId}
        aria-activedescendant={current && optionId(active)}
        value={value}
        onChange={(event) => {
          onChange(event.target.value);
          setWanted(true);
          setActive(-1);
        }}
        onKeyDown={press}
        onBlur={close}
      />
      <div
        id={listId}
        role="listbox"
        aria-label="Repositories on the hub"
        tabIndex={-1}
        hidden={!open}
        className="card absolute inset-x-0 top-full z-20 mt-1 max-h-80 overflow-y-auto py-1 shadow-float"
      >
        {shown.map((repo, index) => (
          <Suggestion
            key={repo.repoId}
            id={optionId(index)}
            repo={repo}
            active={index === active}
            onTake={() => take(repo)}
          />
        ))}
      </div>
      <p role="status" className="sr-only">
        {open ? plural(shown.length, "suggestion") : ""}
      </p>
    </div>
  );
}

// Round the list and, between its end and its beginning, through no choice at all.
function step(active: number, by: 1 | -1, length: number): number {
  return ((active + 1 + by + length + 1) % (length + 1)) - 1;
}

interface SuggestionProps {
  id: string;
  repo: FoundRepo;
  active: boolean;
  onTake(): void;
}

function Suggestion({ id, repo, active, onTake }: SuggestionProps) {
  const facts = [
    repo.downloads > 0n && `${formatCount(Number(repo.downloads))} downloads`,
    repo.gated && "gated",
    repo.support === FoundRepo_Support.UNSUPPORTED && "does not run here",
  ].filter(Boolean);
  return (
    <div
      id={id}
      role="option"
      aria-selected={active}
      tabIndex={-1}
      className={`flex cursor-pointer flex-wrap items-baseline justify-between gap-x-4 px-3 py-1.5 text-sm hover:bg-raised ${
        active ? "bg-accent-soft" : ""
      } ${repo.support === FoundRepo_Support.UNSUPPORTED ? "text-ink-faint" : ""}`}
      // Before the field loses the focus; a finger that scrolls the list does not send it.
      onMouseDown={(event) => {
        event.preventDefault();
        onTake();
      }}
    >
      <span className="min-w-0 font-mono wrap-anywhere">{repo.repoId}</span>
      <span className="text-xs text-ink-faint">{facts.join(" • ")}</span>
    </div>
  );
}
