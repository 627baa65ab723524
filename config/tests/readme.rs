//! The README's tables of settings are those of the code. `SIDEPOOL_UPDATE_README=1 cargo test -p sidepool-config --test readme` writes them anew.

use std::path::Path;

const BEGIN: &str = "<!-- settings: made by the test config/tests/readme.rs -->\n";
const END: &str = "<!-- end of settings -->";

#[test]
fn the_readme_lists_the_settings_as_they_are() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../README.md");
    let readme = std::fs::read_to_string(&path).expect("the README");
    let begin = readme.find(BEGIN).expect("the begin marker") + BEGIN.len();
    let end = begin + readme[begin..].find(END).expect("the end marker");
    let expected = format!("\n{}\n", sidepool_config::reference::markdown().trim());
    if std::env::var_os("SIDEPOOL_UPDATE_README").is_some() {
        std::fs::write(&path, format!("{}{expected}{}", &readme[..begin], &readme[end..])).expect("a writable README");
        return;
    }
    assert_eq!(&readme[begin..end], expected, "the settings changed: write the README anew, as this file's head says");
}
