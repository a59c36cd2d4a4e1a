// The files that an extraction has written, to download and to verify.
import { Download } from "lucide-react";
import type { ExtractionFile } from "../../gen/millm/inspection/v1/inspection_pb";
import { CopyButton } from "../../ui/copy-button";
import { formatBytes } from "../../ui/format";
import { ScrollRegion } from "../../ui/scroll-region";

interface Props {
  id: string;
  files: readonly ExtractionFile[];
}

export function fileUrl(id: string, name: string): string {
  return `/api/extractions/${encodeURIComponent(id)}/files/${encodeURIComponent(name)}`;
}

export function FilesTable({ id, files }: Props) {
  return (
    <ScrollRegion label="Files" className="max-h-128 border border-line bg-surface">
      <table className="w-full text-left text-sm">
        <thead className="sticky top-0 bg-raised text-xs text-ink-faint">
          <tr className="*:px-3 *:py-1.5 *:font-medium">
            <th scope="col">File</th>
            <th scope="col" className="text-right">
              Size
            </th>
            <th scope="col">SHA-256</th>
          </tr>
        </thead>
        <tbody>
          {files.map(({ name, sizeBytes, sha256 }) => (
            <tr key={name} className="border-t border-line *:px-3 *:py-1">
              <th scope="row" className="font-normal">
                <a
                  href={fileUrl(id, name)}
                  download={name}
                  className="inline-flex min-h-7 items-center gap-1.5 font-mono text-xs text-accent underline-offset-4 hover:underline max-sm:min-h-11"
                >
                  <Download aria-hidden className="size-3.5 shrink-0" />
                  {name}
                </a>
              </th>
              <td className="text-right whitespace-nowrap tabular-nums">{formatBytes(Number(sizeBytes))}</td>
              <td>
                <span className="flex items-center gap-1">
                  <code className="text-xs" title={sha256}>
                    {sha256.slice(0, 12)}…
                  </code>
                  <CopyButton
                    what={`SHA-256 of ${name}`}
                    text={sha256}
                    compact="always"
                    className="min-h-7! w-7!"
                  />
                </span>
              </td>
            </tr>
          ))}
        </tbody>
      </table>
    </ScrollRegion>
  );
}
