// The files of a repository; one GGUF file of several can be chosen.
import { Check } from "lucide-react";
import type { PreviewFile } from "../../gen/millm/downloader/v1/downloader_pb";
import { Button } from "../../ui/button";
import { formatBytes } from "../../ui/format";

interface Props {
  files: readonly PreviewFile[];
  summary: string;
  chosen: string;
  onChoose(path: string): void;
}

export function PreviewFiles({ files, summary, chosen, onChoose }: Props) {
  const gguf = files.filter(isGguf);
  return (
    <details open={gguf.length > 1} className="rounded-lg border border-line">
      <summary className="px-3 py-2 text-ink-soft">{summary}</summary>
      <ul className="max-h-64 overflow-y-auto border-t border-line text-xs">
        {files.map((file) => {
          const taken = chosen === "" ? file.selected : file.path === chosen;
          return (
            <li key={file.path} className="flex min-h-8 items-center gap-2 px-3 py-1 odd:bg-raised">
              <Check aria-hidden className={`size-3.5 shrink-0 text-accent ${taken ? "" : "invisible"}`} />
              <span className={`min-w-0 flex-1 font-mono wrap-anywhere ${taken ? "" : "text-ink-faint"}`}>
                {file.path}
                <span className="sr-only">{taken ? ", will be downloaded" : ", not needed"}</span>
              </span>
              <span className="shrink-0 tabular-nums text-ink-faint">
                {formatBytes(Number(file.sizeBytes))}
              </span>
              {gguf.length > 1 && isGguf(file) && file.path !== chosen && (
                <Button label="Choose" className="min-h-7! text-xs" onClick={() => onChoose(file.path)} />
              )}
            </li>
          );
        })}
      </ul>
    </details>
  );
}

function isGguf(file: PreviewFile): boolean {
  return file.path.toLowerCase().endsWith(".gguf");
}
