//! The automatic handle of a template: `residual-mlp_layers0-11_1000samples_1430`.

use millm_proto::catalog::v1::ExtractionSettings;

/// The longest list of points in a handle; the rest and a number follow.
const MAX_POINTS_CHARS: usize = 180;

/// Derives a handle from the settings: the points in the caller's words, the first and last layer, the samples, and hour
/// and minute of `seconds` since 1970 (UTC).
pub(super) fn derive(settings: Option<&ExtractionSettings>, seconds: i64) -> String {
    let Some(settings) = settings else { return "template".to_owned() };
    let points: String = settings.points.join("-").chars().take(MAX_POINTS_CHARS).collect();
    let layers = layers(settings);
    let samples = match settings.max_samples {
        0 => "all".to_owned(),
        samples => samples.to_string(),
    };
    let minutes = seconds.div_euclid(60);
    let (hour, minute) = (minutes.div_euclid(60).rem_euclid(24), minutes.rem_euclid(60));
    format!("{points}_layers{layers}_{samples}samples_{hour:02}{minute:02}")
}

/// Returns the first and the last layer, or "all".
fn layers(settings: &ExtractionSettings) -> String {
    let own = |point: &String| point.split('.').find_map(|part| part.parse::<u32>().ok());
    let own: Vec<Option<u32>> = settings.points.iter().map(own).collect();
    // The list of layers is for points without a layer of their own.
    let is_listed = own.iter().any(Option::is_none);
    if is_listed && matches!(settings.layers.as_str(), "" | "all") {
        return "all".to_owned();
    }
    let listed = settings.layers.split([',', '-']).filter(|_| is_listed);
    let numbers = listed.filter_map(|number| number.trim().parse().ok());
    let all = || own.iter().copied().flatten().chain(numbers.clone());
    match (all().min(), all().max()) {
        (Some(first), Some(last)) => format!("{first}-{last}"),
        _ => "all".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn handles_say_points_layers_samples_and_time() {
        let check = |points: &[&str], layers: &str, max_samples, expected: &str| {
            let points = points.iter().map(|&point| point.to_owned()).collect();
            let settings =
                ExtractionSettings { points, layers: layers.to_owned(), max_samples, ..Default::default() };
            // 2024-03-01 14:30:59
            assert_eq!(derive(Some(&settings), 1_709_303_459), expected);
        };
        check(&["residual", "mlp"], "0-11", 1000, "residual-mlp_layers0-11_1000samples_1430");
        check(&["resid_post"], "5-10,0,3", 1, "resid_post_layers0-10_1samples_1430");
        check(&["mlp"], "7", 0, "mlp_layers7-7_allsamples_1430");
        check(&["mlp"], "all", 0, "mlp_layersall_allsamples_1430");
        check(&["mlp"], "", 0, "mlp_layersall_allsamples_1430");
        check(
            &["resid_post.3", "blocks.5.attn.hook_q"],
            "all",
            9,
            "resid_post.3-blocks.5.attn.hook_q_layers3-5_9samples_1430",
        );
        check(&["resid_post.30", "mlp"], "0-4", 9, "resid_post.30-mlp_layers0-30_9samples_1430");
        let long = "x".repeat(500);
        assert!(
            derive(Some(&ExtractionSettings { points: vec![long], ..Default::default() }), 0).len() < 230
        );
    }
}
