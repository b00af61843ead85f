//! The commands. Only `sync` ever needs the network.

use std::{collections::BTreeSet, fs, path::Path};

use datasync::prelude::*;
use futures::{FutureExt, StreamExt};

use crate::{
    Failure,
    args::{Arguments, Choice, Command, ConflictAction},
    config::Config,
    model::{Todo, find, short},
    show,
};

/// The file of the todos.
const FILE: &str = "todo.redb";

/// The app with its file open.
struct App<'a> {
    folder: &'a Path,
    config: Config,
    client: DatasyncClient,
    todos: OfflineTable<Todo>,
}

pub(crate) async fn run(arguments: &Arguments) -> Result<String, Failure> {
    let folder = arguments.folder();
    let app = App::open(&folder).await?;
    let done = app.command(&arguments.command).await;
    app.client.close().await?;
    done
}

impl App<'_> {
    async fn open(folder: &Path) -> Result<App<'_>, Failure> {
        let config = Config::read(folder)?;
        fs::create_dir_all(folder).map_err(|error| format!("`{}` cannot be made: {error}", folder.display()))?;
        let path = folder.join(FILE);
        let store = RedbStore::open(&path).map_err(|error| format!("`{}`: {error}", path.display()))?;
        // Nothing is connected to before `sync`, which looks for a service first.
        let transport = HttpTransport::new(config.service.as_deref().unwrap_or("http://localhost"))?;
        let client = DatasyncClient::builder().store(store).transport(transport).config(config.sync.clone());
        let client = client.table::<Todo>().build().await?;
        let todos = client.offline_table::<Todo>();
        Ok(App { folder, config, client, todos })
    }

    async fn command(&self, command: &Command) -> Result<String, Failure> {
        match command {
            Command::Add { text, due } => {
                let todo = Todo { id: String::new(), text: text.join(" "), done: false, due: *due };
                let added = self.todos.insert(todo).await?.into_inner();
                Ok(show::line(&added, &self.all().await?))
            }
            Command::Ls { all, json } => {
                let rows = self.all().await?;
                let shown: Vec<&Todo> = rows.iter().filter(|todo| *all || !todo.done).collect();
                if *json {
                    return Ok(serde_json::to_string_pretty(&shown)? + "\n");
                }
                Ok(show::list(&shown, &rows))
            }
            Command::Search { text } => {
                let rows = self.all().await?;
                let wanted = text.to_lowercase();
                let found: Vec<&Todo> = rows.iter().filter(|todo| todo.text.to_lowercase().contains(&wanted)).collect();
                Ok(show::list(&found, &rows))
            }
            Command::Done { ids } => self.each(ids, |todo| Some(Todo { done: true, ..todo })).await,
            Command::Rm { ids } => self.each(ids, |_| None).await,
            Command::Edit { id, text } => {
                let text = text.join(" ");
                self.each(std::slice::from_ref(id), |todo| Some(Todo { text: text.clone(), ..todo })).await
            }
            Command::Sync => self.sync().await,
            Command::Status => self.status().await,
            Command::Conflicts { action: None } => Ok(show::conflicts(&self.client.conflicts().await?)?),
            Command::Conflicts { action: Some(ConflictAction::Resolve { number, side }) } => {
                self.resolve(*number, *side).await
            }
            Command::Serve { .. } => Ok(String::new()),
        }
    }

    /// Every todo: those with a day first, in its order, then the others in the order in which they were added.
    async fn all(&self) -> Result<Vec<Todo>, Error> {
        let mut rows = self.todos.query().to_vec().await?;
        rows.sort_by_key(|todo| (todo.due.is_none(), todo.due));
        Ok(rows)
    }

    /// Changes todos, or removes them where `change` leaves nothing. An unknown name is found before any is changed.
    async fn each(&self, ids: &[String], change: impl Fn(Todo) -> Option<Todo>) -> Result<String, Failure> {
        let rows = self.all().await?;
        let meant = ids.iter().map(|id| find(&rows, id).cloned()).collect::<Result<Vec<_>, _>>()?;
        let mut text = String::new();
        for todo in meant {
            match change(todo.clone()) {
                Some(changed) => {
                    self.todos.replace(changed.clone()).await?;
                    text += &show::line(&changed, &rows);
                }
                None => {
                    self.todos.delete(&todo.id).await?;
                    text += &format!("{} removed: {}\n", short(&todo, &rows), todo.text);
                }
            }
        }
        Ok(text)
    }

    async fn sync(&self) -> Result<String, Failure> {
        let service = self.config.service(self.folder)?;
        let explain = async |error: Error| -> Failure {
            let waiting = self.client.pending().await.map_or(0, |pending| pending.len());
            match error.kind() {
                ErrorKind::Unreachable => {
                    let waiting = show::count(waiting, "change", "wait");
                    format!("{service}: {error}. {waiting} here, nothing is lost").into()
                }
                _ => format!("{service}: {error}").into(),
            }
        };
        let mut events = self.client.events();
        let pushed = match self.client.push_tables(Tables::all()).await {
            Ok(report) => report,
            Err(error) => return Err(explain(error).await),
        };
        let pulled = match self.todos.pull_items(self.todos.query()).await {
            Ok(report) => report,
            Err(error) => return Err(explain(error).await),
        };
        let mut text = format!(
            "{} sent, {} added, {} changed, {} removed here.\n",
            pushed.pushed, pulled.inserted, pulled.updated, pulled.removed
        );
        text += &show::pending(&self.client.pending().await?, &self.all().await?);
        let mut reasons = BTreeSet::new();
        while let Some(Some(event)) = events.next().now_or_never() {
            if let SyncEvent::ItemDelayed { message, .. } = event {
                reasons.insert(message);
            }
        }
        text.extend(reasons.iter().map(|reason| format!("Not sent yet: {reason}.\n")));
        Ok(text)
    }

    async fn status(&self) -> Result<String, Failure> {
        let rows = self.all().await?;
        let open = rows.iter().filter(|todo| !todo.done).count();
        let service = self.config.service.as_deref().unwrap_or("none (`todo sync` says how to name one)");
        let mut text = format!("{open} open, {} done. Service: {service}\n", rows.len() - open);
        let pending = self.client.pending().await?;
        text += if pending.is_empty() { "Nothing waits to be sent.\n" } else { "" };
        text += &show::pending(&pending, &rows);
        let losers = self.client.settled_losers().await?.len();
        if losers > 0 {
            text += &format!("Kept, though they lost a conflict: {losers}.\n");
        }
        Ok(text)
    }

    async fn resolve(&self, number: usize, side: Choice) -> Result<String, Failure> {
        let conflicts = self.client.conflicts().await?;
        let conflict = number.checked_sub(1).and_then(|place| conflicts.get(place));
        let conflict = conflict.ok_or_else(|| format!("there is no conflict {number}: `todo conflicts` lists them"))?;
        let resolution: Resolution = match side {
            Choice::Keep => Resolution::Keep,
            Choice::Take => Resolution::Take,
        };
        self.client.resolve(conflict, resolution).await?;
        Ok("Settled. `todo sync` sends what is left of it.\n".to_owned())
    }
}
