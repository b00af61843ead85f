use syn::{DeriveInput, parse_quote};

use crate::{case::Case, derive, id, item::suggestion, members};

fn errors(input: &DeriveInput) -> Vec<String> {
    let output = derive(input).to_string();
    output
        .split("compile_error ! { ")
        .skip(1)
        .filter_map(|rest| syn::parse_str::<syn::LitStr>(rest.split(" }").next()?).ok())
        .map(|message| message.value())
        .collect()
}

#[test]
fn what_is_right_has_no_errors_and_parses() {
    let input: DeriveInput = parse_quote! {
        #[sync(table = "todo", index(a, b))]
        struct Todo { id: String, #[sync(index)] a: u32, #[sync(local)] b: Option<u32>, }
    };
    // The index over the local field is the one mistake.
    assert_eq!(errors(&input), ["a local field has no handle to query by, so an index of it would not be used"]);
    let input: DeriveInput = parse_quote! { struct Todo { id: String, r#type: Vec<Self> } };
    let output = derive(&input);
    syn::parse2::<syn::File>(output.clone()).unwrap();
    assert!(output.to_string().contains("Vec < Todo >"), "{output}");
}

#[test]
fn every_mistake_of_a_struct_is_reported() {
    let input: DeriveInput = parse_quote! {
        #[sync(tabel = "todo", tabel)]
        #[serde(deny_unknown_fields)]
        struct Todo {
            #[sync(idnex, local = 1)]
            title: String,
            #[sync(version, deleted)]
            version: u32,
        }
    };
    let errors = errors(&input);
    for (place, part) in [
        "did you mean `table`",
        "did you mean `table`",
        "deny_unknown_fields",
        "did you mean `index`",
        "takes no value",
        "at most one role",
        "needs an id",
        "add `#[serde(default)]`",
    ]
    .into_iter()
    .enumerate()
    {
        assert!(errors.get(place).is_some_and(|error| error.contains(part)), "{part} in {errors:#?}");
    }
    assert_eq!(errors.len(), 8, "{errors:#?}");
}

#[test]
fn a_stand_in_keeps_the_handles() {
    let input: DeriveInput = parse_quote! { struct Todo { #[sync(idd)] id: String, title: String } };
    let output = derive(&input).to_string();
    assert!(output.contains("struct TodoFields"), "{output}");
    assert!(output.contains("SyncEntity for Todo"), "{output}");
}

#[test]
fn a_far_name_is_not_suggested() {
    assert_eq!(suggestion("idnex", &["id", "index"]), ", did you mean `index`?");
    assert_eq!(suggestion("colour", &["id", "index"]), ", expected one of `id`, `index`");
    assert_eq!(suggestion("colour", &["crate"]), ", expected `crate`");
}

#[test]
fn a_rule_never_cuts_a_character() {
    for name in ["", "_", "__", "ü", "ß_ü"] {
        for rule in ["camelCase", "PascalCase", "snake_case", "SCREAMING-KEBAB-CASE"] {
            let case = Case::parse(rule).unwrap();
            case.field(name);
            case.variant(name);
        }
    }
    assert_eq!(Case::parse("Title Case"), None);
}

/// A multiplicative generator: the cases are the same on every run.
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % end
    }

    fn pick<'a>(&mut self, from: &[&'a str]) -> &'a str {
        from[self.below(from.len())]
    }

    fn attributes(&mut self) -> String {
        const KEYS: [&str; 29] = [
            "id",
            "version",
            "updated_at",
            "deleted",
            "index",
            "local",
            "table",
            "fields",
            "crate",
            "merge",
            "merge_with",
            "parent",
            "edited_at",
            "rename",
            "rename_all",
            "default",
            "skip",
            "with",
            "flatten",
            "tag",
            "transparent",
            "serialize",
            "r#type",
            "a::b",
            "12",
            "\"text\"",
            "skip_serializing_if",
            "<",
            "&'a",
        ];
        const VALUES: [&str; 19] = [
            "",
            "",
            "",
            "= \"\"",
            "= \"id\"",
            "= \"camelCase\"",
            "= \"a b\"",
            "= 1",
            "= Name",
            "= max",
            "= union",
            "= Self::merge::<u8>",
            "()",
            "(id, title)",
            "(index(id))",
            "(serialize = \"a\", deserialize = \"b\")",
            "[a]",
            "= = =",
            "= \"::x::y\"",
        ];
        let mut text = String::new();
        for _ in 0..self.below(3) {
            let items: Vec<String> =
                (0..self.below(4)).map(|_| format!("{} {}", self.pick(&KEYS), self.pick(&VALUES))).collect();
            let path = self.pick(&["sync", "sync", "serde", "doc"]);
            text += &match self.below(8) {
                0 => format!("#[{path}] "),
                1 => format!("#[{path} = {}] ", self.pick(&["1", "\"x\"", "x"])),
                _ => format!("#[{path}({})] ", items.join(self.pick(&[", ", ", ", ",,", " "]))),
            };
        }
        text
    }

    fn fields(&mut self) -> String {
        const NAMES: [&str; 9] = ["id", "version", "updated_at", "deleted", "title", "r#type", "__", "ü", "id"];
        const TYPES: [&str; 6] = ["String", "Option<Self>", "()", "[u8; { 1 }]", "fn(&Self) -> m!(,)", "impl X"];
        (0..self.below(5))
            .map(|_| {
                let vis = self.pick(&["", "pub", "pub(crate)"]);
                format!("{} {vis} {}: {}, ", self.attributes(), self.pick(&NAMES), self.pick(&TYPES))
            })
            .collect()
    }

    fn input(&mut self) -> String {
        const MEMBERS: [&str; 5] = ["A", "B", "r#C", "D(u8)", "Ü { x: u8 }"];
        let generics = self.pick(&["", "", "", "", "<T>", "<'a>", "<const N: usize>"]);
        let body = match self.below(7) {
            0 => format!("enum Name{generics} {{ {} }}", {
                let members: Vec<String> =
                    (0..self.below(4)).map(|_| format!("{} {}", self.attributes(), self.pick(&MEMBERS))).collect();
                members.join(", ")
            }),
            1 => format!("struct r#struct{generics}({} u8);", self.attributes()),
            2 => format!("struct Name{generics};"),
            3 => format!("union Name{generics} {{ {} }}", self.fields()),
            _ => format!("struct Name{generics} {{ {} }}", self.fields()),
        };
        format!("{} {body}", self.attributes())
    }
}

#[test]
fn no_input_makes_the_derive_panic() {
    let mut random = Random(7);
    let mut parsed = 0;
    for _ in 0..20_000 {
        let text = random.input();
        let Ok(input) = syn::parse_str::<DeriveInput>(&text) else { continue };
        parsed += 1;
        for output in [derive(&input), members::derive(&input), id::derive(&input)] {
            if let Err(error) = syn::parse2::<syn::File>(output.clone()) {
                panic!("{error}: {text}\n{output}");
            }
        }
    }
    assert!(parsed > 5_000, "only {parsed} inputs were derives");
}
