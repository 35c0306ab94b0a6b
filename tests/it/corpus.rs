//! The inputs that fuzzing found interesting, and those that once broke something.

#[path = "../fuzz/targets/mod.rs"]
mod targets;

use std::collections::BTreeSet;
use std::fs;
use std::panic::catch_unwind;
use std::path::PathBuf;

fn corpus() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus")
}

#[test]
fn every_target_takes_its_whole_corpus() {
    for (name, target) in targets::ALL {
        let mut count = 0;
        for entry in fs::read_dir(corpus().join(name)).expect("a corpus for each target") {
            let path = entry.expect("a readable folder").path();
            let input = fs::read(&path).expect("a readable input");
            // The same cut short and with a flipped bit, too: what a network does.
            let mut flipped = input.clone();
            if let Some(byte) = flipped.get_mut(count % input.len().max(1)) {
                *byte ^= 1 << (count % 8);
            }
            for bytes in [&input[..], &input[..input.len() / 2], &flipped] {
                let outcome = catch_unwind(|| target(bytes));
                assert!(outcome.is_ok(), "{} breaks {name}", path.display());
            }
            count += 1;
        }
        assert!(count >= 3, "{name} has {count} inputs");
    }
}

#[test]
fn every_corpus_has_a_target() {
    let names: BTreeSet<String> = targets::ALL.iter().map(|(name, _)| (*name).to_owned()).collect();
    let found: BTreeSet<String> = fs::read_dir(corpus())
        .expect("the corpora")
        .map(|entry| entry.expect("a readable folder").file_name().to_string_lossy().into_owned())
        .collect();
    assert_eq!(found, names);
}
