package pages

// Home is the first page.
type Home struct {
	Sample  []string // posts of the sample text
	Pricing Pricing
}

// Pricing is the plan cards.
type Pricing struct {
	Yearly   bool
	Plans    []PlanCard
	Currency string
}

// PlanCard is a plan that can be chosen.
type PlanCard struct {
	ID       string
	Name     string
	Blurb    string
	Price    string // "$9.99"
	Interval string // "month", "year"; empty for free
	PerMonth string // a yearly price by the month; empty else
	Saving   string // "two months free"; empty without one
	Trial    string // "14 days free to try"; empty without one
	Features []string
	Current  bool
	Featured bool
	Action   *Action // nil: nothing to click
}

// Action is a button: a form that is posted, or a link.
type Action struct {
	Text   string
	Href   string // a link, when Post is false
	Post   bool
	Plan   string // a hidden field
	Yearly bool
	Quiet  bool // not the main button
	Dialog bool // a link that may open above the page
}

// Form is a form with one message above it or at a field.
type Form struct {
	Values map[string]string
	Errors map[string]string // by field; "" is for the whole form
	Next   string
}

// Value returns a field's value.
func (f Form) Value(name string) string { return f.Values[name] }

// Error returns a field's message.
func (f Form) Error(name string) string { return f.Errors[name] }

// Compose is the page on which kolekts are made and listed.
type Compose struct {
	Form   Form
	Tones  []Tone
	Meter  Meter
	List   []KolektRow
	More   string // address of the next page
	Sample string
}

// Tone is a choice of tone.
type Tone struct {
	ID, Name, Example string
	Selected          bool
}

// KolektRow is a kolekt in the list.
type KolektRow struct {
	ID, Title, When string
	Posts           int
	Score           int
}

// Kolekt is the page of one kolekt.
type Kolekt struct {
	ID, When   string
	Posts      []Post
	Characters string
	Tone       string
	Score      int
	Factors    []ScoreFactor
	Text       string
}

// Post is one post of a kolekt.
type Post struct {
	Number     int
	Text       string
	Image      string
	Characters int
}

// ScoreFactor is one reason of a score.
type ScoreFactor struct {
	Name, Advice string
	Points, Max  int
}

// Limit is the page that says that a plan's limit is reached.
type Limit struct {
	Reason string // what happened
	Until  string // when it works again without paying
	Now    Meter
	Plan   *PlanCard // that would help; nil: there is none
	Gain   []string  // what it would bring
}

// Return is the page after the checkout.
type Return struct {
	State  string // "paid", "waiting", "failed"
	Now    string // the plan as long as it waits
	Plan   string
	Gains  []string
	Detail string
}

// Account is the user's dashboard.
type Account struct {
	Plan     Subscription
	Banner   *Notice
	Now      UsageNow
	Chart    *Chart
	CSVPlan  string // the plan that has CSV; empty: this one
	Stats    []Stat
	Invoices []Invoice
}

// UsageNow is what is used in the present period.
type UsageNow struct {
	Meters  []Meter
	Rate    string // the pace, in words
	Refused string // what was refused in 24 hours; empty: nothing
}

// Limits is the page of an account's limits.
type Limits struct {
	Now    LimitsNow
	Chart  *Chart
	Table  Table
	Better *PlanCard // the plan that would help; nil: none
	Gain   []string
}

// LimitsNow is where an account stands against its limits.
type LimitsNow struct {
	Meters []Meter
	Stats  []Stat
}

// MailPage is what a person is sent, and may choose.
type MailPage struct {
	Address string
	Blocked string // why nothing arrives; empty: it does
	Streams []MailStream
	Always  []MailStream // that can't be switched off
	Log     Table
}

// MailStream is what a person can switch off.
type MailStream struct {
	ID, Name, Text string
	On             bool
}

// Subscription is the card of the account's plan.
type Subscription struct {
	Name        string
	Price       string // "$9.99 a month", "free"
	Badge       Badge
	Next        string // "Next charge: $9.99 on 1 March 2026"
	Since       string
	Features    []string
	CanUpgrade  bool
	CanCancel   bool
	CanResume   bool
	Keep        string // "Stay on Business", while another plan is scheduled
	CanPortal   bool
	Provisional string // how old the state is, when it matters
	Credit      string // what comes off the next invoices
}

// Badge is a state with a colour; the text alone says enough.
type Badge struct {
	Text string
	Kind string // "good", "warn", "bad", "info", "mute"
}

// Stat is one number with what it means.
type Stat struct {
	Label string
	Value string
	Note  string
	Help  string // address of its definition
	Rows  string // address of the rows behind it
	Alarm bool   // it wants a look
}

// Invoice is a row of the list of invoices.
type Invoice struct {
	Number, Date, Amount string
	Badge                Badge
	PDF, Hosted          string
}

// Change is the page that asks before a plan is changed.
type Change struct {
	From, To  PlanCard
	Lines     []ChangeLine
	Due       string // now
	Next      string
	Date      string // of the proration, to be sent back with the amount
	Amount    string
	Currency  string
	When      string // it takes effect; sent back too
	Yearly    bool
	Downgrade bool
	Detail    string
}

// ChangeLine is a line of the previewed invoice.
type ChangeLine struct{ Text, Amount string }

// Table is rows under names.
type Table struct {
	Caption string
	Heads   []string
	Rows    []Row
	Empty   string
	Numeric map[int]bool // columns
}

// Row is a row of a Table; Href, if set, is behind its first cell.
type Row struct {
	Href  string
	Cells []string
	Badge *Badge // after the last cell
	Post  *Action
}

// Admin is the administrator's first page: money.
type Admin struct {
	Tab         string
	Stats       []Stat
	MRR         *Chart
	Movements   *Chart
	Plans       Table
	Subscribers Table
	Dunning     Table
	Cohorts     Table
}

// Definition says how a number is computed.
type Definition struct{ ID, Name, Text string }

// AdminUsers is the list of users.
type AdminUsers struct {
	Tab    string
	Search string
	Total  string
	Users  Table
	More   string
}

// AdminUser is one user with the timeline, and what can be done.
type AdminUser struct {
	Deeds []Deed
	Audit Table
	Tab   string
	ID    string
	Name  string
	Email string
	Since string
	Badge Badge
	Plan  string
	Stats []Stat
	Meter Meter
	Log   Table
}

// Deed is something that an administrator can do to an account.
type Deed struct {
	Name   string // in the form's address
	Title  string
	Text   string
	Button string
	Key    string // the deed's own, so that a form sent twice is one deed
	Fields []DeedField
	Error  string
	Open   bool
	Values map[string]string
}

// Value returns a field's value.
func (d Deed) Value(name string) string { return d.Values[name] }

// DeedField is a field of a Deed.
type DeedField struct {
	Name, Label, Hint, Placeholder string
	Type                           string   // of the input; empty: text
	Choices                        []Choice // a list to choose from; nil: a text
}

// Choice is one of a list.
type Choice struct{ ID, Name string }

// AdminAudit is what administrators did.
type AdminAudit struct {
	Tab     string
	Entries Table
	More    string
}

// AdminRows is the rows behind a number.
type AdminRows struct {
	Tab, Name, Text string
	Value           string
	Back            Link
	Rows            Table
}

// AdminDrift is how our accounts differ from the payment provider's.
type AdminDrift struct {
	Tab   string
	Stats []Stat
	Rows  Table
	Next  string // address of the next accounts
}

// AdminUsage is how the platform is used.
type AdminUsage struct {
	Tab     string
	Stats   []Stat
	Chart   *Chart
	Top     Table
	Near    Table
	Refused Table
	Plans   Table
}

// AdminHealth is what waits and what failed.
type AdminHealth struct {
	Tab     string
	Now     HealthNow
	Dead    Table
	Mail    Table
	Notices Table
}

// HealthNow is the part of health that is live.
type HealthNow struct {
	Stats  []Stat
	Checks []Check
}

// Check is one thing that is well or isn't.
type Check struct {
	Name, Text string
	Badge      Badge
}

// AdminProjections is what may come.
type AdminProjections struct {
	Tab       string
	Stats     []Stat
	Form      Form
	Chart     *Chart
	Months    Table
	BreakEven Table
}

// Keys is the page of API keys.
type Keys struct {
	Allowed bool   // the plan has keys
	Token   string // shown once
	Name    string
	Form    Form
	Keys    []KeyRow
	Example string
	Scopes  []Tone
}

// KeyRow is a key in the list.
type KeyRow struct {
	ID, Name, Hint, Scopes, Created, Used string
	Badge                                 Badge
	Active                                bool
}

// Clock is the development's clock control.
type Clock struct {
	Now, Real string
	Log       Table
}

// Faults is the development's switches for what may go wrong.
type Faults struct {
	Kinds  []FaultKind
	Active Table
	Form   Form
}

// FaultKind is something that can go wrong.
type FaultKind struct {
	ID, Name, Text string
	Selected       bool
}

// Mailbox is the development's captured mail.
type Mailbox struct {
	Mails []Mail
	Open  *Mail
}

// Mail is a captured mail.
type Mail struct {
	ID, To, Subject, When, Text string
	Links                       []Link
}

// Failure is an error's page.
type Failure struct {
	Status  int
	Heading string
	Text    string
	Link    Link
}

// Message is a page that says one thing.
type Message struct {
	Heading string
	Text    string
	Links   []Link
}

// Account's sub-pages.

// Privacy is the page of a person's rights.
type Privacy struct {
	Erasing  string // when, and what can be done; empty when it isn't asked for
	Requests []PrivacyRequest
	Consents []Consent
	Form     Form
}

// PrivacyRequest is something that the person has asked for.
type PrivacyRequest struct {
	ID, What, Asked, Note string
	State                 Badge
	Download              string
	Cancel                bool
}

// Consent is a purpose that a person may agree to.
type Consent struct {
	ID, Text string
	Given    bool
}

// Referral is the page of the referral programme.
type Referral struct {
	Code, Link string
	Stats      []Stat
	Rewards    Table
	Form       Form
	CanApply   bool
}
