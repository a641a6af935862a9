"""What a sale is made of: products, agreements, usage plans. Pure and frozen; standard library only, no I/O."""
