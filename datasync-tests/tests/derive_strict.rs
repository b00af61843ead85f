//! The derives in a crate that denies every warning, and in a module without a prelude.
#![deny(missing_docs, warnings)]

/// A module that has only what it names.
#[no_implicit_prelude]
pub mod strict {
    /// An entity.
    #[derive(
        ::core::clone::Clone,
        ::core::fmt::Debug,
        ::serde::Serialize,
        ::serde::Deserialize,
        ::datasync_derive::SyncEntity,
    )]
    #[sync(crate = "::datasync_core", index(grade, title))]
    pub struct Todo {
        /// The id.
        pub id: ::std::string::String,
        /// The title.
        #[sync(index)]
        pub title: ::std::string::String,
        /// The grade.
        pub grade: ::core::option::Option<Grade>,
        /// Stays here.
        #[sync(local)]
        pub scroll: ::core::option::Option<u32>,
        r#type: bool,
    }

    /// An enum.
    #[derive(
        ::core::clone::Clone, ::core::fmt::Debug, ::serde::Serialize, ::serde::Deserialize, ::datasync_derive::SyncEnum,
    )]
    #[sync(crate = "::datasync_core")]
    pub enum Grade {
        /// Below.
        Low,
        /// Above.
        High,
    }
}

#[test]
fn the_output_names_everything_it_uses() {
    use datasync_core::entity::SyncEntity;
    let high = strict::Todo::FIELDS.grade.eq(strict::Grade::High);
    assert_eq!(high.to_string(), "(grade eq 'High')");
    let names: Vec<String> = strict::Todo::SCHEMA.fields.iter().map(|field| field.name.to_string()).collect();
    assert_eq!(names, ["id", "title", "grade", "scroll", "type"]);
}
