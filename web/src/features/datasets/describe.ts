// Datasets in words.
import { Source } from "../../gen/millm/catalog/v1/catalog_pb";
import {
  type Dataset,
  Dataset_State,
  DatasetColumn_Kind,
  DatasetFormat,
} from "../../gen/millm/catalog/v1/datasets_pb";
import { formatBytes, plural } from "../../ui/format";

const STATES: Record<Dataset_State, string> = {
  [Dataset_State.UNSPECIFIED]: "Unknown",
  [Dataset_State.PENDING]: "Being added",
  [Dataset_State.READY]: "Ready",
  [Dataset_State.ERROR]: "Error",
};

export function stateLabel(state: Dataset_State): string {
  return STATES[state] ?? STATES[Dataset_State.UNSPECIFIED];
}

const FORMATS: Record<DatasetFormat, string> = {
  [DatasetFormat.UNSPECIFIED]: "",
  [DatasetFormat.JSONL]: "JSON lines",
  [DatasetFormat.CSV]: "CSV",
  [DatasetFormat.TEXT]: "Text",
  [DatasetFormat.PARQUET]: "Parquet",
};

const KINDS: Record<DatasetColumn_Kind, string> = {
  [DatasetColumn_Kind.UNSPECIFIED]: "",
  [DatasetColumn_Kind.TEXT]: "text",
  [DatasetColumn_Kind.MESSAGES]: "messages",
  [DatasetColumn_Kind.TOKEN_IDS]: "token ids",
  [DatasetColumn_Kind.OTHER]: "other",
};

export function kindLabel(kind: DatasetColumn_Kind): string {
  return KINDS[kind] ?? "";
}

export function bytesOf(dataset: Dataset): number {
  return dataset.files.reduce((sum, file) => sum + Number(file.sizeBytes), 0);
}

// "1,000 rows • 2 files • 3.4 MB • Parquet"; what is not known yet is left out.
export function factsOf(dataset: Dataset): string {
  const facts: string[] = [];
  if (dataset.state === Dataset_State.READY) {
    facts.push(plural(Number(dataset.rows), "row"));
  }
  if (dataset.files.length > 0) {
    facts.push(plural(dataset.files.length, "file"), formatBytes(bytesOf(dataset)));
  }
  const format = FORMATS[dataset.format] ?? "";
  if (format !== "") {
    facts.push(format);
  }
  return facts.join(" • ");
}

// "roneneldan/TinyStories • train • main @ 0123456789"; the path of a local one.
export function originOf(dataset: Dataset): string {
  if (dataset.source === Source.LOCAL) {
    return dataset.localPath;
  }
  const { repoId, config, split, revision, commit } = dataset;
  const version = [revision, commit.slice(0, 10)].filter(Boolean).join(" @ ");
  return [repoId, config, split, version].filter(Boolean).join(" • ");
}

// Columns that an extraction can read.
export function readableColumns(dataset: Dataset) {
  return dataset.columns.filter(({ kind }) => kind !== DatasetColumn_Kind.OTHER);
}
