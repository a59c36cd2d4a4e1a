// What the feeds have said so far, and how to tell it again to somebody who comes later.
import type { Download } from "../gen/millm/downloader/v1/downloader_pb";
import { FailedStep, Status, WatchModelsResponse_Kind } from "../gen/millm/gateway/v1/gateway_pb";
import type { Extraction } from "../gen/millm/inspection/v1/inspection_pb";
import type { RuntimeStatus } from "../gen/millm/runtime/v1/runtime_pb";
import type { Feed, FeedEvent, ModelsChange } from "./feeds";
import type { Row } from "./join";

export class FeedMemory {
  rows = new Map<bigint, Row>();
  downloads = new Map<bigint, Download>();
  status: RuntimeStatus | undefined;
  // By id.
  extractions = new Map<string, Extraction>();
  // Whether a complete list of models has come.
  listed = false;
  lost = new Set<Feed>();
  // Rows of a list that is still coming: they replace the others when it is complete, so that nothing flickers.
  #incoming: Map<bigint, Row> | undefined;

  // Answers whether what there is to see may have changed.
  absorb(event: FeedEvent): boolean {
    switch (event.kind) {
      case "connected":
        if (event.feed === "models") {
          this.#incoming = new Map();
        } else if (event.feed === "downloads") {
          this.downloads = new Map();
        } else if (event.feed === "extractions") {
          this.extractions = new Map();
        }
        return this.lost.delete(event.feed);
      case "lost":
        this.lost.add(event.feed);
        return true;
      case "models":
        return this.#absorbChange(event.change);
      case "download":
        this.downloads.set(event.download.modelId, event.download);
        return true;
      case "runtime":
        this.status = event.status;
        return true;
      case "extraction":
        this.extractions.set(event.extraction.id, event.extraction);
        return true;
    }
  }

  #absorbChange({ kind, model, status, failedStep }: ModelsChange): boolean {
    if (kind === WatchModelsResponse_Kind.SNAPSHOT_COMPLETE) {
      this.rows = this.#incoming ?? this.rows;
      this.#incoming = undefined;
      this.listed = true;
      return true;
    }
    const rows = this.#incoming ?? this.rows;
    if (model && kind === WatchModelsResponse_Kind.DELETED) {
      rows.delete(model.id);
    } else if (model) {
      rows.set(model.id, {
        model,
        status: status ?? Status.UNSPECIFIED,
        failedStep: failedStep ?? FailedStep.UNSPECIFIED,
      });
    }
    return rows === this.rows;
  }

  // The events that bring another memory to where this one is.
  *replay(): Iterable<FeedEvent> {
    if (this.listed) {
      yield* list(this.rows);
      yield { kind: "models", change: { kind: WatchModelsResponse_Kind.SNAPSHOT_COMPLETE } };
    }
    if (this.#incoming) {
      yield* list(this.#incoming);
    }
    for (const download of this.downloads.values()) {
      yield { kind: "download", download };
    }
    if (this.status) {
      yield { kind: "runtime", status: this.status };
    }
    for (const extraction of this.extractions.values()) {
      yield { kind: "extraction", extraction };
    }
    for (const feed of this.lost) {
      yield { kind: "lost", feed };
    }
  }
}

function* list(rows: ReadonlyMap<bigint, Row>): Iterable<FeedEvent> {
  yield { kind: "connected", feed: "models" };
  for (const row of rows.values()) {
    yield { kind: "models", change: { kind: WatchModelsResponse_Kind.PUT, ...row } };
  }
}
