//! Builds again when the web app has been built again: its files are embedded.

fn main() {
    println!("cargo:rerun-if-changed=../web/dist");
}
