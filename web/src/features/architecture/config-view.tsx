// The published config.json: a tree that opens and closes, a search, and the text to copy.
import { useDeferredValue, useId, useMemo, useState } from "react";
import { CopyButton } from "../../ui/copy-button";
import { plural } from "../../ui/format";
import {
  childPath,
  childrenOf,
  DEEPEST,
  findIn,
  isContainer,
  type Json,
  type Path,
  parseJson,
  splitAt,
} from "./json";

// Children that are shown before a person asks for more.
const MOST_CHILDREN = 100;

export function ConfigView({ json }: { json: string }) {
  const root = useMemo(() => parseJson(json), [json]);
  const [text, setText] = useState("");
  const wanted = useDeferredValue(text.trim());
  const found = useMemo(
    () => (root !== undefined && wanted !== "" ? findIn(root, wanted) : undefined),
    [root, wanted],
  );
  const searchId = useId();
  if (json === "") {
    return (
      <p className="text-sm text-ink-soft">
        This model was published without a config.json: its file holds the configuration.
      </p>
    );
  }
  if (root === undefined) {
    return (
      <div className="card p-4">
        <CopyButton what="config.json" text={json} />
        <pre className="mt-3 max-h-96 overflow-auto text-xs whitespace-pre-wrap wrap-anywhere">{json}</pre>
      </div>
    );
  }
  const nothing = found?.size === 0;
  return (
    <div className="card flex flex-col gap-3 p-4" data-testid="config">
      <div className="flex flex-wrap items-center gap-2">
        <label htmlFor={searchId} className="sr-only">
          Search the configuration
        </label>
        <input
          id={searchId}
          type="search"
          className="field max-w-80 min-w-0 flex-1"
          placeholder="Search keys and values"
          autoComplete="off"
          spellCheck={false}
          value={text}
          onChange={(event) => setText(event.target.value)}
        />
        <CopyButton what="config.json" text={json} className="ml-auto" />
      </div>
      <p role="status" className={nothing ? "text-sm text-ink-soft" : "sr-only"}>
        {nothing ? `Nothing holds “${wanted}”.` : ""}
      </p>
      {!nothing && (
        <div className="font-mono text-xs">
          {isContainer(root) ? (
            <Children value={root} path="" depth={0} wanted={wanted} found={found} />
          ) : (
            <Plain value={root} wanted={wanted} />
          )}
        </div>
      )}
    </div>
  );
}

interface NodeProps {
  value: Json;
  path: Path;
  depth: number;
  wanted: string;
  // Undefined without a search.
  found: ReadonlySet<Path> | undefined;
}

function Children({ value, path, depth, wanted, found }: NodeProps) {
  const [most, setMost] = useState(MOST_CHILDREN);
  const children = childrenOf(value).filter(([key]) => !found || found.has(childPath(path, key)));
  return (
    <ul className={depth > 0 ? "ml-1.5 border-l border-line pl-3" : ""}>
      {children.slice(0, most).map(([key, child]) => (
        <li key={key} className="py-0.5">
          <Entry
            name={key}
            value={child}
            path={childPath(path, key)}
            depth={depth + 1}
            wanted={wanted}
            found={found}
          />
        </li>
      ))}
      {children.length > most && (
        <li>
          <button
            type="button"
            className="py-1 font-sans text-accent underline underline-offset-4"
            onClick={() => setMost(most + 10 * MOST_CHILDREN)}
          >
            {plural(children.length - most, "more entry", "more entries")}
          </button>
        </li>
      )}
    </ul>
  );
}

function Entry({ name, ...node }: NodeProps & { name: string }) {
  const { value, depth, wanted, found } = node;
  const [wish, setWish] = useState<boolean>();
  if (!isContainer(value) || childrenOf(value).length === 0 || depth >= DEEPEST) {
    return (
      <p className="wrap-anywhere">
        <Key name={name} wanted={wanted} />
        <Plain value={value} wanted={wanted} />
      </p>
    );
  }
  // What a search finds is open; without one, only a person opens.
  const open = found ? wish !== false : wish === true;
  const size = childrenOf(value).length;
  return (
    <details open={open}>
      {/* biome-ignore lint/a11y/noStaticElementInteractions: a summary is what opens its details. */}
      <summary
        className="max-sm:py-1.5"
        onClick={(event) => {
          // React, not the browser, knows whether it is open.
          event.preventDefault();
          setWish(!open);
        }}
      >
        <Key name={name} wanted={wanted} />
        <span className="text-ink-faint">
          {Array.isArray(value) ? `[${plural(size, "value")}]` : `{${plural(size, "key")}}`}
        </span>
      </summary>
      {open && <Children {...node} />}
    </details>
  );
}

function Key({ name, wanted }: { name: string; wanted: string }) {
  return (
    <span className="text-accent-strong">
      <Marked text={name} wanted={wanted} />
      {": "}
    </span>
  );
}

function Plain({ value, wanted }: { value: Json; wanted: string }) {
  const text = isContainer(value)
    ? JSON.stringify(value)
    : typeof value === "string"
      ? `"${value}"`
      : String(value);
  return <Marked text={text} wanted={wanted} />;
}

function Marked({ text, wanted }: { text: string; wanted: string }) {
  return splitAt(text, wanted).map((part, index) =>
    index % 2 === 1 ? (
      // biome-ignore lint/suspicious/noArrayIndexKey: the parts of a text have nothing but their place.
      <mark key={index} className="rounded-xs bg-warn-soft text-warn">
        {part}
      </mark>
    ) : (
      part
    ),
  );
}
