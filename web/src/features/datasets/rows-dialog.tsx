// Rows of a dataset, a page at a time.
import { useQuery } from "@connectrpc/connect-query";
import { keepPreviousData } from "@tanstack/react-query";
import { ChevronLeft, ChevronRight } from "lucide-react";
import { useState } from "react";
import type { Dataset } from "../../gen/millm/catalog/v1/datasets_pb";
import { DownloaderService } from "../../gen/millm/downloader/v1/downloader_pb";
import { Button } from "../../ui/button";
import { Dialog } from "../../ui/dialog";
import { LoadFailure } from "../../ui/load-failure";
import { ScrollRegion } from "../../ui/scroll-region";
import { type Cell, rowsTable } from "./rows";

const LIMIT = 20;

interface Props {
  dataset: Dataset;
  onClose(): void;
}

export function RowsDialog({ dataset, onClose }: Props) {
  const [offset, setOffset] = useState(0);
  const { data, error, isFetching, isPlaceholderData, refetch } = useQuery(
    DownloaderService.method.readDatasetRows,
    { name: dataset.name, offset: BigInt(offset), limit: LIMIT },
    { placeholderData: keepPreviousData },
  );
  const total = Number(dataset.rows);
  const last = Math.min(offset + LIMIT, total);
  return (
    <Dialog
      title={`Rows of ${dataset.handle}`}
      size="large"
      onClose={onClose}
      actions={
        <>
          <p role="status" className="mr-auto self-center text-sm text-ink-soft tabular-nums">
            {total > 0 &&
              `${(offset + 1).toLocaleString("en")} to ${last.toLocaleString("en")} of ${total.toLocaleString("en")}`}
          </p>
          <Button
            label="Previous"
            icon={ChevronLeft}
            compact="phone"
            disabled={offset === 0}
            onClick={() => setOffset(Math.max(0, offset - LIMIT))}
          />
          <Button
            label="Next"
            icon={ChevronRight}
            compact="phone"
            disabled={last >= total}
            onClick={() => setOffset(offset + LIMIT)}
          />
        </>
      }
    >
      {data ? (
        <div aria-busy={isPlaceholderData} className={isPlaceholderData ? "opacity-60" : ""}>
          <Rows dataset={dataset} rowsJson={data.rowsJson} first={isPlaceholderData ? undefined : offset} />
        </div>
      ) : error ? (
        <LoadFailure cause={error} busy={isFetching} onRetry={() => void refetch()} />
      ) : (
        <div aria-hidden className="h-64 animate-pulse rounded-lg bg-sunken" />
      )}
    </Dialog>
  );
}

interface RowsProps {
  dataset: Dataset;
  rowsJson: readonly string[];
  // Of the first row; undefined while another page's rows are shown.
  first: number | undefined;
}

function Rows({ dataset, rowsJson, first }: RowsProps) {
  const { columns, rows } = rowsTable(rowsJson, dataset);
  if (rows.length === 0) {
    return <p className="text-ink-soft">This dataset has no rows.</p>;
  }
  return (
    <ScrollRegion label={`Rows of ${dataset.handle}`} className="max-h-[60dvh] border border-line">
      <table className="w-full text-left text-xs">
        <thead className="sticky top-0 bg-raised text-ink-faint">
          <tr className="*:px-3 *:py-1.5 *:font-medium">
            <th scope="col" className="text-right">
              Row
            </th>
            {columns.map((column) => (
              <th key={column} scope="col" className="font-mono">
                {column}
                {column === dataset.column && (
                  <span className="ml-1.5 font-sans font-normal text-accent-strong">is read</span>
                )}
              </th>
            ))}
          </tr>
        </thead>
        <tbody>
          {rows.map((cells, index) => (
            // biome-ignore lint/suspicious/noArrayIndexKey: a row is known by its place.
            <tr key={index} className="border-t border-line align-top *:px-3 *:py-1.5">
              <th scope="row" className="text-right font-normal text-ink-faint tabular-nums">
                {first === undefined ? "" : (first + index + 1).toLocaleString("en")}
              </th>
              {columns.map((column) => (
                <td key={column} className="min-w-40">
                  <CellView cell={cells.get(column)} />
                </td>
              ))}
            </tr>
          ))}
        </tbody>
      </table>
    </ScrollRegion>
  );
}

function CellView({ cell }: { cell: Cell | undefined }) {
  if (!cell) {
    return <span className="text-ink-faint">–</span>;
  }
  if (cell.kind === "messages") {
    return (
      <ul className="flex flex-col gap-1">
        {cell.messages.map(({ role, content }, index) => (
          // biome-ignore lint/suspicious/noArrayIndexKey: a message is known by its place.
          <li key={index} className="whitespace-pre-wrap wrap-anywhere">
            <span className="font-medium text-accent-strong">{role}:</span> {content}
          </li>
        ))}
      </ul>
    );
  }
  return (
    <span className={`whitespace-pre-wrap wrap-anywhere ${cell.kind === "other" ? "font-mono" : ""}`}>
      {cell.text}
    </span>
  );
}
