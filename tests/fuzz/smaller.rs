//! Reduces an input that fails, so that a person can read it.

/// Leaves out parts of decreasing size as long as `is_wrong` holds for the rest. Calls it at most `tries` times.
pub async fn smaller(input: &[u8], tries: usize, mut is_wrong: impl AsyncFnMut(&[u8]) -> bool) -> Vec<u8> {
    let (mut best, mut left) = (input.to_vec(), tries);
    let mut size = best.len() / 2;
    while size > 0 && left > 0 {
        let mut at = 0;
        while at < best.len() && left > 0 {
            let end = (at + size).min(best.len());
            let without = [&best[..at], &best[end..]].concat();
            left -= 1;
            if !without.is_empty() && is_wrong(&without).await {
                best = without;
            } else {
                at = end;
            }
        }
        size /= 2;
    }
    best
}

#[tokio::test]
async fn what_matters_is_left() {
    let is_wrong = async |input: &[u8]| input.windows(3).any(|part| part == b"bad");
    let found = smaller(b"much before bad and after it", 1_000, is_wrong).await;
    assert_eq!(found, b"bad");
    let mut asked = 0;
    smaller(&[0; 1_000], 7, async |_| {
        asked += 1;
        false
    })
    .await;
    assert_eq!(asked, 7);
}
