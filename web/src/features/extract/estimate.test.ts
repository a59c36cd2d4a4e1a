import { create } from "@bufbuild/protobuf";
import { expect, test } from "vitest";
import { ExtractionEstimateSchema } from "../../gen/millm/inspection/v1/inspection_pb";
import { estimateRows, estimateText } from "./estimate";

const ESTIMATE = create(ExtractionEstimateSchema, {
  samples: 1000n,
  sequenceLength: 512,
  batchSize: 8,
  points: ["resid_post.0", "mlp.0"],
  diskBytes: 9_000_000_000n,
  availableDiskBytes: 120_000_000_000n,
  memoryBytes: 150_000_000n,
  time: { seconds: 130n },
});

test("the figures of an estimate", () => {
  expect(estimateRows(ESTIMATE)).toEqual([
    ["Samples", "1,000 × 512 tokens"],
    ["Arrays", "2, in batches of 8 samples"],
    ["Disk", "9.0 of 120 GB free"],
    ["Extra memory", "150 MB"],
    ["Time", "about 2 min 10 s"],
  ]);
  expect(estimateText(ESTIMATE)).toBe("1,000 samples • 9.0 GB on disk • about 2 min 10 s");
});

test("what is not known is not guessed", () => {
  const unknown = create(ExtractionEstimateSchema, { samples: 1n, diskBytes: 5_000n });
  const rows = Object.fromEntries(estimateRows(unknown));
  expect(rows).toMatchObject({ Disk: "5.0 KB", Time: "not known yet" });
  expect(estimateText(unknown)).toBe("1 sample • 5.0 KB on disk");
});
