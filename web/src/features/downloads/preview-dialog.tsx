// What a repository holds and what it would take, before anything is downloaded.
import { Download as DownloadIcon } from "lucide-react";
import type { ReactNode } from "react";
import { quantizationLabel } from "../../api/join";
import { Quantization } from "../../gen/millm/catalog/v1/catalog_pb";
import type { ModelPreview, QuantizationEstimate } from "../../gen/millm/downloader/v1/downloader_pb";
import { Button } from "../../ui/button";
import { Callout } from "../../ui/callout";
import { Dialog } from "../../ui/dialog";
import { formatBytes, formatCount, plural } from "../../ui/format";
import { PreviewFiles } from "./preview-files";

interface Props {
  preview: ModelPreview;
  quantization: Quantization;
  file: string;
  onChoose(quantization: Quantization): void;
  onChooseFile(file: string): void;
  busy: boolean;
  onDownload(): void;
  onClose(): void;
}

export function PreviewDialog(props: Props) {
  const { preview, quantization, onDownload, onClose, busy } = props;
  const architecture = preview.architecture;
  const chosen = preview.estimates.find((estimate) => estimate.quantization === quantization);
  const isHere = chosen !== undefined && chosen.modelId > 0n;
  return (
    <Dialog
      title={preview.handle || preview.repoId}
      size="wide"
      onClose={onClose}
      actions={
        <>
          <Button label="Close" onClick={onClose} />
          <Button
            label={`Download ${quantizationLabel(quantization)}`}
            icon={DownloadIcon}
            look="primary"
            busy={busy}
            disabled={!preview.supported || isHere}
            onClick={onDownload}
          />
        </>
      }
    >
      <div className="flex flex-col gap-4" data-testid="preview">
        <p className="-mb-1 font-mono text-xs wrap-anywhere text-ink-faint">
          {preview.repoId}
          {preview.commit && ` @ ${preview.commit.slice(0, 10)}`}
        </p>
        {!preview.supported && (
          <Callout tone="bad">{preview.unsupportedReason || "miLLM cannot run this model."}</Callout>
        )}
        {preview.gated && (
          <Callout tone="warn">
            This model is gated: it needs an access token of an account that was let in.
          </Callout>
        )}
        {preview.requiresTrustRemoteCode && (
          <Callout tone="warn">
            This repository asks for custom code. miLLM never runs it; allow it with “Trust remote code” to
            use the built-in implementation.
          </Callout>
        )}
        <dl className="grid grid-cols-2 gap-x-6 gap-y-2.5 sm:grid-cols-4">
          <Fact name="Architecture" value={architecture?.name} />
          <Fact name="Parameters" value={parameters(preview.parameterCount)} />
          <Fact name="Context" value={positive(architecture?.contextLength, (n) => n.toLocaleString("en"))} />
          <Fact name="Licence" value={preview.license} />
          <Fact name="Layers" value={positive(architecture?.layers, String)} />
          <Fact name="Hidden size" value={positive(architecture?.hiddenSize, String)} />
          <Fact name="Gated" value={preview.gated ? "Yes" : "No"} />
          <Fact name="Custom code" value={preview.requiresTrustRemoteCode ? "Required" : "No"} />
        </dl>
        <Estimates {...props} />
        {isHere && (
          <Callout tone="info">{quantizationLabel(quantization)} of this model is here already.</Callout>
        )}
        {chosen && !isHere && <Room estimate={chosen} free={preview.availableDiskBytes} />}
        <PreviewFiles
          files={preview.files}
          chosen={props.file}
          onChoose={props.onChooseFile}
          summary={`${plural(preview.files.length, "file")}${
            preview.downloadSizeBytes > 0n
              ? ` • ${formatBytes(Number(preview.downloadSizeBytes))} to download`
              : ""
          }`}
        />
      </div>
    </Dialog>
  );
}

function Fact({ name, value }: { name: string; value: ReactNode }) {
  return (
    <div className="min-w-0">
      <dt className="text-xs text-ink-faint">{name}</dt>
      <dd className="font-medium wrap-anywhere">{value || "–"}</dd>
    </div>
  );
}

function parameters(count: bigint): ReactNode {
  return (
    count > 0n && (
      <>
        <span>{formatCount(Number(count))}</span>{" "}
        <span className="text-xs font-normal text-ink-faint">{count.toLocaleString("en")}</span>
      </>
    )
  );
}

// Whether what is chosen does not fit on the disk.
function Room({ estimate, free }: { estimate: QuantizationEstimate; free: bigint }) {
  if (estimate.peakDiskBytes <= free) {
    return null;
  }
  return (
    <Callout tone="warn">
      It needs {formatBytes(Number(estimate.peakDiskBytes))} on the disk while it arrives, only{" "}
      {formatBytes(Number(free))} are free.
    </Callout>
  );
}

function positive(n: bigint | number | undefined, format: (n: number) => string): string | undefined {
  return n ? format(Number(n)) : undefined;
}

function Estimates({ preview, quantization, onChoose }: Props) {
  if (preview.estimates.length === 0) {
    return null;
  }
  return (
    <div className="overflow-hidden rounded-lg border border-line">
      <table className="w-full text-left tabular-nums">
        <thead className="bg-raised text-xs text-ink-faint">
          <tr className="*:px-3 *:py-1.5 *:font-medium">
            <th scope="col">Quantization</th>
            <th scope="col" className="text-right">
              On disk
            </th>
            <th scope="col" className="text-right max-sm:hidden">
              Disk while it arrives
            </th>
            <th scope="col" className="text-right">
              In memory
            </th>
          </tr>
        </thead>
        <tbody>
          {preview.estimates.map((estimate) => (
            <EstimateRow
              key={estimate.quantization}
              estimate={estimate}
              chosen={estimate.quantization === quantization}
              onChoose={onChoose}
            />
          ))}
        </tbody>
      </table>
    </div>
  );
}

interface RowProps {
  estimate: QuantizationEstimate;
  chosen: boolean;
  onChoose(quantization: Quantization): void;
}

function EstimateRow({ estimate, chosen, onChoose }: RowProps) {
  const { quantization } = estimate;
  return (
    <tr className="border-t border-line *:px-3 *:py-1.5 has-checked:bg-accent-soft">
      <td>
        <label className="flex items-center gap-2 font-medium">
          <input
            type="radio"
            name="preview-quantization"
            className="size-4 accent-accent"
            checked={chosen}
            onChange={() => onChoose(quantization)}
          />
          {quantizationLabel(quantization)}
          {quantization === Quantization.Q4 && (
            <span className="text-xs font-normal text-ink-faint">recommended</span>
          )}
        </label>
      </td>
      <td className="text-right">{formatBytes(Number(estimate.diskSizeBytes))}</td>
      <td className="text-right max-sm:hidden">{formatBytes(Number(estimate.peakDiskBytes))}</td>
      <td className="text-right">{formatBytes(Number(estimate.memoryBytes))}</td>
    </tr>
  );
}
